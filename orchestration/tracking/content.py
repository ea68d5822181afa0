"""What is sent to MLflow, as MLflow takes it: text without what no database stores, cut to what a tag holds."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from optuna.trial import FrozenTrial

from ..ledger.accounts import shares
from ..ledger.records import TrialRecord
from ..ledger.usage import Kind, attempts_of

SPENT_PREFIX = "spent."  # of metrics about device time
SPENT_STEP = 1  # of these: step 0 has what earlier versions wrote, in other accounts; MLflow shows the last step
TAG_CHARS = 5000  # of a tag's or a parameter's value; older servers take no more
_KEY = re.compile(r"[^\w\-. /:]")  # what MLflow takes in no name
_KEY_CHARS = 250


def clean(text: str) -> str:
    """A text that every MLflow can store: a surrogate without its partner, as in file names that are not UTF-8, becomes
    `\\\\udce9`, NUL becomes `\\\\x00`, and what is too long is cut."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")[:TAG_CHARS]


def as_text(value: Any) -> str:
    """A value of a tag or a parameter."""
    return clean(value if isinstance(value, str) else repr(value) if isinstance(value, float) else str(value))


def as_key(name: str) -> str:
    """A name of a metric, a parameter or a tag."""
    return _KEY.sub("_", clean(name))[:_KEY_CHARS] or "_"


def flat(spec: Mapping[str, Any]) -> dict[str, str]:
    """The spec as tags."""
    return {f"refsweep.spec.{k}": as_text(v) for k, v in spec.items() if v is not None}


def trial_tags(trial: FrozenTrial) -> dict[str, str]:
    """What a trial's tags say beside whose it is."""
    names = ("attempt", "cause", "checkpoint", "data", "retry_of", "setting")
    stored = TrialRecord.of(trial).as_attributes()
    return {f"refsweep.{n}": as_text(stored[n]) for n in names if n in stored}


def params_of(trial: FrozenTrial) -> list[Any]:
    """A trial's Config as MLflow's parameters."""
    from mlflow.entities import Param

    return [Param(as_key(k), as_text(v)) for k, v in sorted(TrialRecord.of(trial).config.items())]


def metrics_of(history: Sequence[Mapping[str, Any]], trial: FrozenTrial) -> list[Any]:
    """Epochs, and the time that an ended trial has spent, as MLflow's metrics."""
    from mlflow.entities import Metric

    metrics = [
        Metric(as_key(key), float(value), int(entry["time_ms"]), int(entry["epoch"]))
        for entry in history
        for key, value in sorted(entry["metrics"].items())
    ]
    return metrics + [Metric(key, value, at_ms, SPENT_STEP) for key, value, at_ms in spent(trial)]


def spent(trial: FrozenTrial) -> list[tuple[str, float, int]]:
    """An ended trial's device-seconds by account (`spent.useful_cpu_s`), at the time its last attempt ended: the same
    however often they are sent."""
    attempts = attempts_of(trial)
    if not trial.state.is_finished() or not attempts:
        return []
    kind: Kind = "gpu" if attempts[-1].gpus else "cpu"
    at_ms = int((attempts[-1].ended_s or 0.0) * 1000)
    by_account = [(f"{SPENT_PREFIX}{n}_{kind}_s", value, at_ms) for n, value in shares(trial, attempts, kind).items()]
    return [*by_account, (f"{SPENT_PREFIX}attempts", float(len(attempts)), at_ms)]
