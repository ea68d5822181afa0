"""What a spec says of its trainable, checked against the trainable."""

from __future__ import annotations

import dataclasses

from ...datasets.problems import InputError
from ...trainables import coercion, discovery
from .schema import SweepSpec


def trainable_problems(spec: SweepSpec) -> list[str]:
    """All that is wrong about `trainable`, `fixed`, the objective's metrics and missing data, each `path: problem`."""
    try:
        config = discovery.load_config(spec.trainable)
    except InputError as error:
        return [f"trainable: {error}"]
    problems = []
    try:
        coercion.make_config(config, spec.fixed)
    except InputError as error:
        problems += [f"fixed: {line}" for line in str(error).splitlines()]
    metrics = discovery.load_part(spec.trainable, "METRICS")
    problems += [
        f"objective: metric must be one of {', '.join(metrics)}, got {objective.metric!r}"
        for objective in spec.objectives
        if objective.metric not in metrics
    ]
    if spec.data == "none":
        try:
            discovery.load_part(spec.trainable, "open_data")(None)
        except InputError as error:
            problems.append(f"data: {error}")
    return problems


def epochs_of(spec: SweepSpec) -> int:
    """The epochs of each trial: what the spec holds fixed, or the trainable's default."""
    fields = {f.name: f for f in dataclasses.fields(discovery.load_config(spec.trainable))}
    return int(spec.fixed.get("epochs", fields["epochs"].default))
