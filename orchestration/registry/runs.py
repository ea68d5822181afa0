"""The MLflow run of a trial that is promoted."""

from __future__ import annotations

from typing import Any, cast

from ...datasets.problems import InputError
from ...trainables.training.checkpoints import Checkpoints
from ..ledger.ledger import Ledger
from ..spec.folders import trial_folder
from ..spec.schema import SweepSpec
from ..tracking.projector import Projector
from .catalogue import ABSENT, Unless


def run_of(client: Any, uri: str, spec: SweepSpec, ledger: Ledger, number: int) -> str:
    """The id of a trial's run. One that was deleted, or never sent, is made as `sync` would make it.

    Raises InputError where it can't be, as the sweep has no id: no driver has run it since sweeps have ids.
    """
    known = ledger.record.run_ids.get(number)
    if known is not None:
        with Unless(ABSENT):
            if client.get_run(known).info.lifecycle_stage == "active":
                return known
    if ledger.record.id is None:
        name = ledger.sweep
        raise InputError(f"trial {name}/{number} has no MLflow run: `refsweep sweep sync {name}` makes it")
    readable = _Readable(ledger)
    Projector(uri, cast(Ledger, readable), lambda n: Checkpoints(trial_folder(spec, n))).trial(number)
    return readable.runs.get(number) or str(known)  # restored by somebody meanwhile


class _Readable:
    """A ledger that is only read, since who promotes does not hold its lease: `sync` finds a new run by its tags."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.runs: dict[int, str] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ledger, name)

    def set_run_id(self, number: int, run_id: str) -> None:
        """Keeps it here alone."""
        self.runs[number] = run_id
