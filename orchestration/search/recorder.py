"""Takes in what trials report: writes epochs to the ledger, prunes, ends trials."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from optuna.trial import TrialState

from ...datasets.problems import InputError
from ...trainables.training.checkpoints import Checkpoints
from ..ledger.ledger import Ledger
from ..ledger.measured import manifest_digest
from ..ledger.records import TrialChanges
from ..spec.folders import trial_folder
from ..spec.schema import SweepSpec
from .budget import BudgetKeeper
from .ending import write_ending
from .protocol import Verdict
from .pruners.base import Pruner


class Recorder:
    """Writes the results of one sweep's trials. `changed` is called with the number of a trial whose record has
    changed."""

    def __init__(
        self, spec: SweepSpec, ledger: Ledger, pruner: Pruner, budget: BudgetKeeper, changed: Callable[[int], None]
    ) -> None:
        self._spec, self._ledger, self._pruner, self._budget = spec, ledger, pruner, budget
        self._changed = changed

    def checkpoints(self, number: int) -> Checkpoints:
        """A trial's checkpoints."""
        return Checkpoints(trial_folder(self._spec, number))

    def take(self, number: int, entries: Sequence[Mapping[str, Any]], final: bool, *, judged: bool = False) -> Verdict:
        """Writes epochs in order and judges the newest: a trial trains on only after those before were judged, and
        what other trials have reached since then must not end it in retrospect."""
        reported = self._ledger.reported(number)
        for entry in entries:
            values = self._values(entry)
            if values is None:
                continue
            epoch = int(entry["epoch"])
            if not all(map(math.isfinite, values)):
                last = f"{self._spec.objectives[0].metric} is {values[0]} in epoch {epoch}"
                self.end_infeasible(number, "non_finite", last)
                return Verdict.END
            if epoch not in reported:
                self._ledger.report(number, epoch, values)
                self._changed(number)
            if entry is entries[-1] and not judged and self._is_hopeless(number, epoch):
                self.end(number, TrialState.PRUNED, values, entries, cause=f"pruned after epoch {epoch}")
                return Verdict.END
        if not final:
            return Verdict.GO_ON
        values = self._values(entries[-1]) if entries else None
        if values is None:
            raise InputError(f"trial {number} ended without {', '.join(o.metric for o in self._spec.objectives)}")
        self.end(number, TrialState.COMPLETE, values, entries)
        return Verdict.END

    def _is_hopeless(self, number: int, epoch: int) -> bool:
        if not self._pruner.judges(epoch):
            return False
        values = {t.number: t.intermediate_values for t in self._ledger.trials}
        return self._pruner.should_prune(number, epoch, values)

    def _values(self, entry: Mapping[str, Any]) -> list[float] | None:
        """The objectives of an epoch, None where it was not evaluated."""
        metrics = entry["metrics"]
        names = [o.metric for o in self._spec.objectives]
        return [float(metrics[n]) for n in names] if all(n in metrics for n in names) else None

    def end_infeasible(self, number: int, kind: str, message: str) -> None:
        self._ledger.violate(number, kind)
        known = self._ledger.trials[number].intermediate_values
        last = [known[max(known)]] if known and len(self._spec.objectives) == 1 else None
        self.end(number, TrialState.PRUNED, last, cause=f"infeasible: {message}")

    def end(
        self,
        number: int,
        state: TrialState,
        values: Sequence[float] | None,
        entries: Sequence[Mapping[str, Any]] = (),
        *,
        cause: str | None = None,
    ) -> None:
        """A trial's end and what is known of it then, in one write, which may be repeated."""
        self._budget.attempt_ended(number)
        newest = self.checkpoints(number).newest(verify=False)
        history = newest.history if newest is not None else []
        complete = state == TrialState.COMPLETE
        last: TrialChanges = {"usage": self._budget.final_attempts(number, history, complete=complete)}
        if cause is not None:
            last["cause"] = cause
        if newest is not None:
            last["checkpoint"] = str(newest.name).rpartition(".")[0]
            last["setting"] = dict(history[-1]["setting"]) if history else {}
            if entries and (newest.name.epoch, newest.name.batch) == (int(entries[-1]["epoch"]), 0):
                last["checkpoint_name"] = str(newest.name)
                last["checkpoint_digest"] = manifest_digest(newest)
        self._ledger.tell(number, state, values, **last)
        write_ending(self._ledger, number, self.checkpoints(number))
        self._changed(number)
