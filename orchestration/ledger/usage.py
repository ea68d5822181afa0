"""Records of device time: the attempts of every trial, and the times at which a driver ran. Plain values in the ledger.

A trial's attribute `usage` lists its attempts, a sweep's attribute `drivers` the runs of its drivers. An attempt begins
in the write that makes the trial, or starts it again, and gets its end in the write that ends the trial, or when it
stops or fails. Until then, and for good when its driver is killed, it ended with that driver, at that one's last known
sign of life: nobody needs to write anything down for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from optuna.trial import FrozenTrial

from ..spec.schema import Resources

Kind = Literal["gpu", "cpu"]
KINDS: tuple[Kind, Kind] = ("gpu", "cpu")
USAGE, DRIVERS = "usage", "drivers"
SPENT = "spent"  # attribute of a sweep that a budget has stopped: which one, and the figures
HEARTBEAT_S = 60.0  # between a driver's signs of life, each of them a write: a killed one's end is known to so much
_OPTIONAL = ("training_began_s", "stopped", "lost_s", "rooms", "term", "ended")  # keys that older entries lack


@dataclass(frozen=True, slots=True)
class Devices:
    """What one trial holds while it runs."""

    gpus: float
    cpus: float

    @property
    def kind(self) -> Kind:
        """What its time is counted in: GPUs, or CPUs where it has none."""
        return "gpu" if self.gpus else "cpu"


def devices_of(resources: Resources, gpus_per_worker: float) -> Devices:
    """What one trial holds. Of an elastic number of workers the largest: that many are kept for it."""
    workers: Any = resources.workers
    most = workers if isinstance(workers, int) else max(workers)
    return Devices(most * gpus_per_worker, float(most * resources.cpus_per_worker))


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One attempt of a trial: when it ran, what it held, what came of it. Times are seconds since 1970."""

    began_s: float
    ended_s: float | None = None
    useful_s: float | None = None  # length of the epochs of the trial's history that it trained; set at the trial's end
    gpus: float
    cpus: float
    training_began_s: float | None = None  # start of its first batch, by its own host's clock
    stopped: bool | None = None  # asked to stop, after a checkpoint; None in older entries, which don't say
    lost_s: float | None = None  # length of training that no checkpoint has kept; set at the trial's end

    @property
    def held_s(self) -> float:
        """How long it lasted; 0 before its end is known. Never negative, whatever was done to the clock."""
        return max(0.0, self.ended_s - self.began_s) if self.ended_s is not None else 0.0

    def devices(self, kind: Kind) -> float:
        """Number of devices of a kind that it held."""
        return self.gpus if kind == "gpu" else self.cpus

    def cost(self, kind: Kind) -> float:
        """Device-seconds that it held, once it has ended."""
        return self.held_s * self.devices(kind)

    def as_json(self) -> dict[str, Any]:
        """The ledger's entry."""
        return _entry(asdict(self))


@dataclass(frozen=True, slots=True, kw_only=True)
class DriverRun:
    """A time at which a driver ran: from its first trial to its last sign of life. Seconds since 1970."""

    began_s: float
    seen_s: float
    slots: int  # trials at the same time, at the beginning
    gpus: float  # of one slot
    cpus: float
    rooms: tuple[tuple[float, int], ...] | None = None  # (when, slots) of every change since then
    term: int | None = None  # the driver's; None in older entries
    ended: bool | None = None  # starts no more trials; None until then, and for good where it was killed

    @property
    def slots_now(self) -> int:
        """The newest number of slots."""
        return self.rooms[-1][1] if self.rooms else self.slots

    @property
    def wall_s(self) -> float:
        """How long it ran."""
        return max(0.0, self.seen_s - self.began_s)

    def devices(self, kind: Kind) -> float:
        """Number of devices of a kind in one slot."""
        return self.gpus if kind == "gpu" else self.cpus

    def spans(self) -> list[tuple[float, float, int]]:
        """(from, to, slots) of every interval with one number of slots, in order, without gaps."""
        intervals: list[tuple[float, float, int]] = []
        start_s, slots = self.began_s, self.slots
        for at_s, changed in (*(self.rooms or ()), (self.seen_s, 0)):
            end_s = min(max(at_s, start_s), max(self.seen_s, start_s))
            intervals.append((start_s, end_s, slots))
            start_s, slots = end_s, changed
        return intervals

    def as_json(self) -> dict[str, Any]:
        """The ledger's entry."""
        rooms = [list(room) for room in self.rooms] if self.rooms is not None else None
        return _entry({**asdict(self), "rooms": rooms})


def _entry(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None or key not in _OPTIONAL}


# -- reading -----------------------------------------------------------------------------------------------


def attempts_of(trial: FrozenTrial) -> list[Attempt]:
    """A trial's attempts as the ledger has them, oldest first."""
    return [Attempt(**entry) for entry in trial.user_attrs.get(USAGE, ())]


def driver_runs(attributes: Mapping[str, Any]) -> list[DriverRun]:
    """A sweep's runs of drivers as the ledger has them, oldest first."""
    return [_driver_run(entry) for entry in attributes.get(DRIVERS, ())]


def _driver_run(entry: Mapping[str, Any]) -> DriverRun:
    rooms = entry.get("rooms")
    return DriverRun(**{**entry, "rooms": rooms and tuple((float(at_s), int(slots)) for at_s, slots in rooms)})


def ended(attempts: Sequence[Attempt], drivers: Sequence[DriverRun]) -> list[Attempt]:
    """Attempts whose end is not written down end with the driver under which they began."""
    return [
        a if a.ended_s is not None else replace(a, ended_s=max(_seen_s(a.began_s, drivers), a.began_s))
        for a in attempts
    ]


def _seen_s(began_s: float, drivers: Sequence[DriverRun]) -> float:
    return next((d.seen_s for d in reversed(drivers) if d.began_s <= began_s), began_s)


def settled(drivers: Sequence[DriverRun], trials: Iterable[FrozenTrial], now_s: float | None = None) -> list[DriverRun]:
    """Drivers, the last of them seen now when it lives, else at the last report of a trial."""
    if not drivers:
        return []
    signs_s = [drivers[-1].seen_s] if now_s is None else [drivers[-1].seen_s, now_s]
    for trial in trials if now_s is None else ():
        signs_s += [a.began_s if a.ended_s is None else a.ended_s for a in attempts_of(trial)[-1:]]
    return [*drivers[:-1], replace(drivers[-1], seen_s=max(signs_s))]


def cost(attempts: Iterable[Attempt], kind: Kind) -> float:
    """Device-seconds that ended attempts held."""
    return sum(a.cost(kind) for a in attempts)
