"""Search spaces as the orchestration sees them: found by name, described for people."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from typing import Any

import optuna

from ...trainables import discovery
from ..ledger.quiet import quiet
from .asking import Space


def search_space(trainable: str) -> Any:
    """The module `search_spaces/<trainable>.py`."""
    discovery.load(trainable)
    return importlib.import_module(f"...search_spaces.{trainable}", __package__)


def describe_space(trainable: str) -> list[dict[str, Any]]:
    """Every parameter of a search space: where it may lie, the published value, when it is searched.

    Found by walking the space with each choice of its categories in turn.
    """
    module = search_space(trainable)
    rows: dict[str, dict[str, Any]] = {}
    for trial in _every_branch(module.space):
        for name, distribution in trial.distributions.items():
            rows.setdefault(
                name,
                {
                    "name": name,
                    "range": _range(distribution),
                    "default": module.DEFAULTS.get(name),
                    "searched": "training",
                },
            )
    for name, values in module.POSTHOC.items():
        rows[name] = {"name": name, "range": json.dumps(values), "default": None, "searched": "post hoc"}
    return list(rows.values())


def _every_branch(space: Space, tries: int = 200) -> Iterator[optuna.trial.FrozenTrial]:
    with quiet():
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(tries):
        asked = study.ask()
        space(asked)
        yield study.trials[asked.number]


def _range(distribution: Any) -> str:
    if isinstance(distribution, optuna.distributions.CategoricalDistribution):
        return " | ".join(map(str, distribution.choices))
    return f"{distribution.low:g} .. {distribution.high:g}{' (log)' if distribution.log else ''}"
