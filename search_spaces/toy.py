"""The toy's plane."""

from __future__ import annotations

from typing import Any

import optuna

DEFAULTS: dict[str, Any] = {"x": 0.0, "y": 0.0}
POSTHOC: dict[str, Any] = {}


def space(trial: optuna.Trial) -> dict[str, Any]:
    """Both coordinates; the optimum at (1, -2) is off the middle so that a sampler has something to find."""
    return {"x": trial.suggest_float("x", -5.0, 5.0), "y": trial.suggest_float("y", -5.0, 5.0)}
