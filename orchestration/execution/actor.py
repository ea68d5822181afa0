"""The Ray Tune actor that runs trials: reused from trial to trial, so that no process starts and nothing is imported
again. A trial of several workers is a Ray Train run that the actor holds.

What trains is imported in the process that trains: the driver, which only names the actor's class, loads no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ray import tune

from ..search.protocol import Assignment, report_as_text
from .stopping import StopWatch

if TYPE_CHECKING:
    from .attempt import DatasetCache, TrialRun
    from .workers import WorkersRun


class TrialActor(tune.Trainable):
    """A reused Tune actor. `setup` and `reset_config` only remember the assignment: Tune may set one trial up in
    two actors, so folders, models and device memory are touched in the first step."""

    def setup(self, config: dict[str, Any]) -> None:
        """Remembers what to run."""
        self._datasets: DatasetCache | None = None
        self._watch: StopWatch | None = None
        self._run: TrialRun | WorkersRun | None = None
        self._assigned = config["assignment"]

    def __repr__(self) -> str:
        """As Ray lists the actor, which it asks once it is set up."""
        return f"TrialActor({self._assigned['sweep']}, {self._assigned['sweep_id']})"

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """The same actor for the next trial."""
        self._forget()
        self._assigned = new_config["assignment"]
        return True

    def step(self) -> dict[str, Any]:
        """One report; `done` after the last."""
        if self._run is None:
            self._run = self._begin(Assignment(**self._assigned))
        report = self._run.next_report()
        return {"report": report_as_text(report), "done": report.final or report.stopped or report.failure is not None}

    def _begin(self, assignment: Assignment) -> TrialRun | WorkersRun:
        if assignment.workers != (1, 1):
            from .workers import WorkersRun

            return WorkersRun(assignment)
        from .attempt import DatasetCache, TrialRun

        self._datasets = self._datasets or DatasetCache()
        self._watch = self._watch or StopWatch(assignment.storage)
        return TrialRun(assignment, self._datasets, self._watch)

    def cleanup(self) -> None:
        """The actor ends."""
        self._forget()
        if self._watch is not None:
            self._watch.close()

    def _forget(self) -> None:
        if self._run is not None:
            self._run.close()
            self._run = None
