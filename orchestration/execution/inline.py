"""Runs a sweep in this process, one trial after the other, without Ray."""

from __future__ import annotations

from ..search.driver import Driver
from ..search.protocol import NoTrial, Room, StopRequested, Verdict
from ..spec.schema import SweepSpec
from .attempt import DatasetCache, TrialRun


class InlineBackend:
    """One slot, the caller's own process."""

    def room(self, spec: SweepSpec, stop_requested: StopRequested) -> Room:
        """One trial."""
        return Room(1)

    def run(self, driver: Driver, stop_requested: StopRequested = lambda: False) -> None:
        """Runs trials until there are none to start."""
        datasets = DatasetCache()

        def must_stop() -> bool:
            if stop_requested():
                driver.request_stop()
            return driver.must_stop()

        while True:
            driver.tick()
            action = NoTrial.FINISHED if must_stop() else driver.next_action()
            if isinstance(action, NoTrial):
                assert action is NoTrial.FINISHED, "a trial is live that nobody runs"
                driver.budget.end()
                return
            run = TrialRun(action, datasets, must_stop)
            try:
                while driver.on_result(run.next_report()) is Verdict.GO_ON:
                    driver.tick()
            finally:
                run.close()
