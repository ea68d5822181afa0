"""What a sweep's device time was for. Pure functions of the attempts and driver runs that the ledger keeps.

Every device-second of a slot that was offered goes to one account:

    useful      epochs of completed trials that counted
    startup     starting workers, importing, opening data, building the model, saving, reporting: all of an attempt
                that is neither training nor lost
    repeated    training that was lost, and done again
    pruned      epochs of trials that a pruner ended
    failed      training of failed and of infeasible trials
    unfinished  all of trials that have not ended: nobody can say yet what it was for
    waiting     slots without a trial while a driver ran

Training begins with an attempt's first batch. Of an attempt that ended before its first report nobody knows when
that was: all of it is start-up.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from .usage import Attempt, DriverRun, Kind, cost

ACCOUNTS = ("useful", "startup", "repeated", "pruned", "failed", "unfinished", "waiting")


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """A sweep's time so far. The accounts are device-seconds of `kind` and add up to `offered_s`."""

    kind: Kind
    useful_s: float = 0.0
    startup_s: float = 0.0
    repeated_s: float = 0.0
    pruned_s: float = 0.0
    failed_s: float = 0.0
    unfinished_s: float = 0.0
    waiting_s: float = 0.0
    gpu_s: float = 0.0  # GPU-seconds that all attempts held
    cpu_s: float = 0.0  # CPU-seconds
    wall_s: float = 0.0  # seconds in which a driver ran

    @property
    def held_s(self) -> float:
        """Device-seconds that trials held: all accounts but waiting."""
        return self.gpu_s if self.kind == "gpu" else self.cpu_s

    @property
    def offered_s(self) -> float:
        """Device-seconds of all slots while a driver ran."""
        return self.held_s + self.waiting_s


def account(drivers: Sequence[DriverRun], usage: Iterable[tuple[FrozenTrial, Sequence[Attempt]]]) -> Account:
    """A sweep's time, from settled drivers, and all trials with their attempts, each of which has an end."""
    kind: Kind = "gpu" if drivers and drivers[-1].gpus else "cpu"
    sums = dict.fromkeys(ACCOUNTS, 0.0)
    attempts: list[Attempt] = []
    for trial, its in usage:
        attempts += its
        for name, device_s in shares(trial, its, kind).items():
            sums[name] += device_s
    sums["waiting"] = _waiting(drivers, attempts, kind)
    return Account(
        kind=kind,
        **{f"{name}_s": device_s for name, device_s in sums.items()},
        gpu_s=cost(attempts, "gpu"),
        cpu_s=cost(attempts, "cpu"),
        wall_s=sum(d.wall_s for d in drivers),
    )


def shares(trial: FrozenTrial, attempts: Sequence[Attempt], kind: Kind) -> dict[str, float]:
    """A trial's device-seconds of a kind by account. Its attempts have an end."""
    if not trial.state.is_finished():
        return {"unfinished": cost(attempts, kind)}
    trained = repeated = startup = 0.0
    for attempt in attempts:
        held_s = attempt.held_s
        kept_s = min(attempt.useful_s or 0.0, held_s)
        lost_s = min(attempt.lost_s or 0.0, held_s - kept_s)
        again_s = lost_s if attempt is not attempts[-1] else 0.0  # nothing came after the last attempt
        devices = attempt.devices(kind)
        trained += (kept_s + lost_s - again_s) * devices
        repeated += again_s * devices
        startup += (held_s - kept_s - lost_s) * devices
    seconds = {"useful": 0.0, "startup": startup, "repeated": repeated, "pruned": 0.0, "failed": 0.0}
    if trial.state == TrialState.COMPLETE:
        return {**seconds, "useful": trained}
    if trial.state == TrialState.PRUNED and not _is_infeasible(trial):
        return {**seconds, "pruned": trained}
    return {**seconds, "repeated": 0.0, "failed": trained + repeated}


def _is_infeasible(trial: FrozenTrial) -> bool:
    return any(key.startswith("constraints") for key in trial.system_attrs)


def _waiting(drivers: Sequence[DriverRun], attempts: Iterable[Attempt], kind: Kind) -> float:
    """Device-seconds of slots without a trial. While nodes go, more trials may be live than there are slots left:
    then none waits."""
    changes = sorted(
        (s, step) for a in attempts if a.held_s for s, step in ((a.began_s, 1), (a.began_s + a.held_s, -1))
    )
    times_s = [at_s for at_s, _ in changes]
    live = [0, *accumulate(step for _, step in changes)]  # live[i]: attempts between times i - 1 and i
    total = 0.0
    for driver in drivers:
        for start_s, end_s, slots in driver.spans():
            first, last = bisect_right(times_s, start_s), bisect_right(times_s, end_s)
            bounds_s = (start_s, *times_s[first:last], end_s)
            idle_s = sum(
                max(0, slots - live[first + i]) * (until_s - since_s)
                for i, (since_s, until_s) in enumerate(pairwise(bounds_s))
            )
            total += idle_s * driver.devices(kind)
    return total


# -- when a trial ends -------------------------------------------------------------------------------------


def credited(
    attempts: Sequence[Attempt], history: Sequence[Mapping[str, Any]], *, inherited: bool, broken: bool
) -> list[Attempt]:
    """Attempts of a trial that ends, each with an end, with the seconds of training that were kept and lost.

    `history` has the epochs that were kept (`time_ms` of the end, `seconds`). An epoch belongs to the attempt within
    which it ended; what it took longer than that one trained was done before, by the stopped attempt whose checkpoint
    it went on from. Lost is what an attempt trained after its last kept epoch, unless a verdict ended it there, or it
    was stopped and a later attempt has ended that epoch.

    `inherited`: epochs from before the first attempt are another trial's. `broken`: the last attempt did not end by a
    verdict, but by a failure, a stop, or with its driver.
    """
    epochs = _by_attempt(attempts, history, inherited=inherited)
    split: list[Attempt] = []
    earlier_s = 0.0  # of an epoch that a later attempt has ended
    for index in reversed(range(len(attempts))):
        attempt, own = attempts[index], epochs[index]
        start_s = _training_began_s(attempt)
        own_s = sum(seconds for _, seconds in own)
        first_s = 0.0  # of its first epoch, from before its first batch
        if own and (index or start_s is not None):
            since_s = attempt.began_s if start_s is None else start_s
            first_s = max(0.0, own[0][1] - max(0.0, own[0][0] - since_s))
        taken_s = own_s - first_s + (0.0 if attempt.stopped is False else earlier_s)
        room_s = attempt.held_s if start_s is None else attempt.began_s + attempt.held_s - start_s
        kept_s = min(taken_s, room_s)
        if own:
            earlier_s = first_s
        elif attempt.stopped is not False:
            earlier_s -= kept_s
        is_lost = attempt.stopped is False and (broken or index < len(attempts) - 1)
        in_vain = attempt.stopped is True and broken and not any(epochs[index + 1 :])
        lost_s = _after_last_epoch_s(attempt, own) if is_lost or in_vain else 0.0
        split.insert(0, replace(attempt, useful_s=kept_s, lost_s=min(lost_s, attempt.held_s - kept_s)))
    return split


def _by_attempt(
    attempts: Sequence[Attempt], history: Sequence[Mapping[str, Any]], *, inherited: bool
) -> list[list[tuple[float, float]]]:
    """(end, seconds) of the kept epochs of each attempt, in order."""
    epochs: list[list[tuple[float, float]]] = [[] for _ in attempts]
    for entry in history:
        at_s = entry["time_ms"] / 1000
        trained_by = max((i for i, a in enumerate(attempts) if a.began_s < at_s), default=None)
        if trained_by is not None or (attempts and not inherited):
            epochs[trained_by or 0].append((at_s, float(entry["seconds"])))
    return epochs


def _training_began_s(attempt: Attempt) -> float | None:
    """When an attempt's first batch began; None when nobody knows, or its host's clock can't be right."""
    at_s = attempt.training_began_s
    return at_s if at_s is not None and attempt.began_s <= at_s <= attempt.began_s + attempt.held_s else None


def _after_last_epoch_s(attempt: Attempt, own: Sequence[tuple[float, float]]) -> float:
    """How long an attempt trained after its last kept epoch; 0 when nobody knows that it trained."""
    since_s = own[-1][0] if own else _training_began_s(attempt)
    return max(0.0, attempt.began_s + attempt.held_s - since_s) if since_s is not None else 0.0
