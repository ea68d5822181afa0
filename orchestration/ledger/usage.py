"""Device-seconds: what trials held, and what came of it. Pure functions of what the ledger keeps.

A trial's attribute `usage` lists its attempts, a sweep's attribute `drivers` the times at which a driver ran:

    attempt  {"began_s", "ended_s", "useful_s", "gpus", "cpus"}   seconds since 1970; devices that it held
    driver   {"began_s", "seen_s", "slots", "gpus", "cpus"}       last sign of life; devices of one slot

An attempt begins in the write that makes the trial, or starts it again, and gets its end in the write that ends the
trial or begins its next attempt. Until then, and for ever when nothing came after it, it ended with its driver, at
that one's last known sign of life. So a killed driver needs nobody to write anything down for it.

Useful: training that counted, the seconds of the epochs in the trial's history. Wasted: the rest of an attempt, which
is start-up, epochs that a crash made it repeat, and all of an attempt from which nothing was kept. Unfinished: of
trials that have not ended, so that nobody can say yet. Waiting: slots without a trial while a driver ran.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from optuna.trial import FrozenTrial

if TYPE_CHECKING:  # the spec imports torch, which `sweep status` has no use for
    from ..spec.schema import Resources

Kind = Literal["gpu", "cpu"]
USAGE, DRIVERS = "usage", "drivers"


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


@dataclass(frozen=True, slots=True)
class Account:
    """A sweep's time so far. Device-seconds are of `kind`."""

    kind: Kind
    useful: float
    wasted: float
    unfinished: float
    waiting: float
    gpu_s: float  # held by all attempts
    cpu_s: float
    wall_s: float  # while a driver ran


# -- attempts ----------------------------------------------------------------------------------------------


def new_attempt(now_s: float, devices: Devices) -> dict[str, Any]:
    """An attempt that begins."""
    return {"began_s": now_s, "ended_s": None, "useful_s": None, "gpus": devices.gpus, "cpus": devices.cpus}


def attempts_of(trial: FrozenTrial) -> list[dict[str, Any]]:
    """A trial's attempts as the ledger has them, oldest first."""
    return list(trial.user_attrs.get(USAGE, ()))


def ended(attempts: Sequence[Mapping[str, Any]], drivers: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Attempts whose end is not written down end with the driver under which they began."""
    return [
        dict(a) if a["ended_s"] is not None else {**a, "ended_s": max(_seen_s(a["began_s"], drivers), a["began_s"])}
        for a in attempts
    ]


def _seen_s(began_s: float, drivers: Sequence[Mapping[str, Any]]) -> float:
    return next((float(d["seen_s"]) for d in reversed(drivers) if d["began_s"] <= began_s), began_s)


def with_useful(
    attempts: Sequence[Mapping[str, Any]], history: Sequence[Mapping[str, Any]], *, inherited: bool
) -> list[dict[str, Any]]:
    """Ended attempts with the seconds of those epochs in the trial's history that each of them trained.

    An epoch belongs to the attempt within which it ended; what it took longer than that attempt lasted was done
    before, by the attempt whose checkpoint it went on from. `inherited`: epochs from before the first attempt are
    another trial's.
    """
    sums = [0.0] * len(attempts)
    for entry in history:
        at_s = entry["time_ms"] / 1000
        made_by = max((i for i, a in enumerate(attempts) if a["began_s"] <= at_s), default=None)
        if made_by is not None or (attempts and not inherited):
            sums[made_by or 0] += float(entry["seconds"])
    found: list[dict[str, Any]] = []
    over = 0.0
    for attempt, seconds in zip(reversed(attempts), reversed(sums), strict=True):
        useful = min(seconds + over, held_s(attempt))
        over += seconds - useful
        found.insert(0, {**attempt, "useful_s": useful})
    return found


def held_s(attempt: Mapping[str, Any]) -> float:
    """How long an ended attempt lasted; never negative, whatever was done to the clock."""
    return max(0.0, float(attempt["ended_s"]) - float(attempt["began_s"]))


def cost(attempts: Iterable[Mapping[str, Any]], kind: Kind) -> float:
    """Device-seconds that ended attempts held."""
    return sum(held_s(a) * float(a[f"{kind}s"]) for a in attempts)


def useful_cost(attempts: Iterable[Mapping[str, Any]], kind: Kind) -> float:
    """Device-seconds of theirs that counted."""
    return sum(float(a["useful_s"] or 0.0) * float(a[f"{kind}s"]) for a in attempts)


# -- a sweep -----------------------------------------------------------------------------------------------


def settled(
    drivers: Sequence[Mapping[str, Any]], trials: Iterable[FrozenTrial], now_s: float | None = None
) -> list[dict[str, Any]]:
    """Drivers, the last of them seen now when it lives, else when the ledger last heard of a trial."""
    found = [dict(d) for d in drivers]
    if found:
        signs = [found[-1]["seen_s"]] if now_s is None else [found[-1]["seen_s"], now_s]
        for trial in trials if now_s is None else ():
            signs += [a["ended_s"] or a["began_s"] for a in attempts_of(trial)[-1:]]
        found[-1]["seen_s"] = max(signs)
    return found


def account(drivers: Sequence[Mapping[str, Any]], trials: Iterable[FrozenTrial]) -> Account:
    """A sweep's time, from settled drivers and all trials."""
    kind: Kind = "gpu" if drivers and drivers[-1]["gpus"] else "cpu"
    gpu_s = cpu_s = useful = wasted = unfinished = 0.0
    for trial in trials:
        attempts = ended(attempts_of(trial), drivers)
        gpu_s, cpu_s = gpu_s + cost(attempts, "gpu"), cpu_s + cost(attempts, "cpu")
        if trial.state.is_finished():
            counted = useful_cost(attempts, kind)
            useful, wasted = useful + counted, wasted + cost(attempts, kind) - counted
        else:
            unfinished += cost(attempts, kind)
    spans = [(max(0.0, d["seen_s"] - d["began_s"]), d) for d in drivers]
    offered = sum(span * d["slots"] * d[f"{kind}s"] for span, d in spans)
    waiting = max(0.0, offered - useful - wasted - unfinished)
    return Account(kind, useful, wasted, unfinished, waiting, gpu_s, cpu_s, sum(span for span, _ in spans))
