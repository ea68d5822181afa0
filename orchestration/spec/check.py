"""What a spec says of its trainable, checked against the trainable. Loads the model's module."""

from __future__ import annotations

import dataclasses

from ...datasets.problems import InputError
from ...trainables import coercion, discovery
from .schema import SweepSpec


def trainable_problems(spec: SweepSpec) -> list[str]:
    """All that is wrong about `trainable`, `fixed`, the objective's metrics and missing data, each `path: problem`."""
    try:
        module = discovery.load(spec.trainable)
    except InputError as error:
        return [f"trainable: {error}"]
    problems = []
    try:
        coercion.make_config(module.Config, spec.fixed)
    except InputError as error:
        problems += [f"fixed: {line}" for line in str(error).splitlines()]
    problems += [
        f"objective: metric must be one of {', '.join(module.METRICS)}, got {objective.metric!r}"
        for objective in spec.objectives
        if objective.metric not in module.METRICS
    ]
    if spec.data == "none":
        try:
            module.open_data(None)
        except InputError as error:
            problems.append(f"data: {error}")
    return problems


def epochs_of(spec: SweepSpec) -> int:
    """The epochs of each trial: what the spec holds fixed, or the trainable's default."""
    fields = {f.name: f for f in dataclasses.fields(discovery.load(spec.trainable).Config)}
    return int(spec.fixed.get("epochs", fields["epochs"].default))
