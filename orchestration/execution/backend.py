"""What runs a sweep's trials, as the driver sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from ..search.driver import Driver
    from ..search.protocol import Room, StopRequested
    from ..spec.schema import SweepSpec


class Backend(Protocol):
    """Runs trials: asks the driver for one for each free slot, and passes on what they report and how they end.

    `tune.TuneBackend` runs them on Ray, `inline.InlineBackend` in this process, and the benchmarks' simulator in a time
    of its own.
    """

    def room(self, spec: SweepSpec, stop_requested: StopRequested) -> Room:
        """What there is room for. Waits until one trial fits; raises InputError with the arithmetic when none does."""

    def run(self, driver: Driver, stop_requested: StopRequested) -> None:
        """Runs trials until the driver has none to start and none is live. Once `stop_requested()` is true, or the
        driver must stop, live trials write a checkpoint and end."""
