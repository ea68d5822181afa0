"""What a fault has cost a sweep, and whether everything is accounted for: ledger, MLflow, Ray, processes."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from optuna.trial import FrozenTrial

from ..cluster.local import LocalCluster
from ..cluster.programs import fetch
from ..datasets.storage.store import Store
from ..orchestration.ledger.records import SweepState, TrialRecord
from ..orchestration.ledger.usage import attempts_of
from ..orchestration.tracking.client import make_client
from ..orchestration.tracking.projector import SWEEP, TRIAL
from ..trainables.training.checkpoints import Checkpoints
from .fault_sweeps import FaultySweep, title_of

SETTLE_S = 60.0  # for Ray to end the processes of a job that is over, also on a host that it has lost
OURS = (
    "ray::ResourceTrainable",
    "ray::TrialActor",
    "ray::Mailbox",
    "ray::RayTrain",
    "ray::TrainController",
    "ray::work",
)


@dataclass(slots=True)
class Account:
    """What is wrong with a sweep after a fault; all empty when nothing is."""

    lost: list[str] = field(default_factory=list)  # trials that are missing or have no result
    duplicates: list[str] = field(default_factory=list)  # trials, runs, metrics that are there twice, or have no owner
    running: list[str] = field(default_factory=list)  # in ledger or MLflow
    leaked: list[str] = field(default_factory=list)  # placement groups, processes
    differs: list[str] = field(default_factory=list)  # from the undisturbed sweep, or MLflow from the ledger
    lost_work_s: float = 0.0

    @property
    def problems(self) -> list[str]:
        """All of them."""
        return [*self.lost, *self.duplicates, *self.running, *self.leaked, *self.differs]


def accounted(sweep: FaultySweep) -> Account:
    """Looks at everything that a sweep which has ended leaves behind."""
    account = Account(lost_work_s=lost_work_s(sweep))
    trials = sweep.ledger.trials
    _in_ledger(sweep, trials, account)
    _in_mlflow(sweep, trials, account)
    account.leaked += [*groups_left(sweep.cluster), *processes_left(sweep.cluster)]
    wanted = sweep.undisturbed()
    account.differs += [f"{got} is not {want}" for got, want in zip(sweep.facts(), wanted, strict=False) if got != want]
    return account


def _in_ledger(sweep: FaultySweep, trials: Sequence[FrozenTrial], account: Account) -> None:
    planned = set(range(sweep.shape.trials))
    counts = Counter(t.number for t in trials)
    account.lost += [f"trial {n} is missing" for n in sorted(planned - set(counts))]
    account.duplicates += [f"trial {n} is there {c} times" for n, c in counts.items() if c > 1]
    account.duplicates += [f"trial {n} was not planned" for n in sorted(set(counts) - planned)]
    for trial in trials:
        if not trial.state.is_finished():
            account.running.append(f"trial {trial.number} is {trial.state.name} in the ledger")
        elif trial.values is None:
            account.lost.append(f"trial {trial.number} is {trial.state.name}: {TrialRecord.of(trial).cause}")
    if sweep.ledger.record.state is not SweepState.FINISHED:
        account.running.append(f"the sweep is {sweep.ledger.record.state}")


def _in_mlflow(sweep: FaultySweep, trials: Sequence[FrozenTrial], account: Account) -> None:
    client = make_client(sweep.cluster.tracking)
    experiment = client.get_experiment_by_name("toy")
    runs = client.search_runs([experiment.experiment_id], f"tags.`{SWEEP}` = '{sweep.name}'") if experiment else []
    account.running += [f"run {r.info.run_id} is RUNNING in MLflow" for r in runs if r.info.status == "RUNNING"]
    parents = [r for r in runs if TRIAL not in r.data.tags]
    if len(parents) != 1:
        account.duplicates.append(f"{len(parents)} parent runs")
    by_trial = Counter(r.data.tags[TRIAL] for r in runs if TRIAL in r.data.tags)
    account.duplicates += [f"trial {name} has {count} runs" for name, count in by_trial.items() if count > 1]
    for run in runs:
        if TRIAL not in run.data.tags:
            continue
        name, number = run.data.tags[TRIAL], int(run.data.tags[TRIAL].rpartition("/")[2])
        strange = bool(parents) and run.data.tags.get("mlflow.parentRunId") != parents[0].info.run_id
        if strange or number >= len(trials):
            account.duplicates.append(f"the run of trial {name} is an orphan")
            continue
        rows = [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "loss")]
        if len(rows) != len(set(rows)):
            account.duplicates.append(f"metrics of trial {name} are there twice: {rows}")
        if dict(rows) != trials[number].intermediate_values:
            account.differs.append(f"MLflow has {rows} of trial {name}, not {trials[number].intermediate_values}")
    lacking = {f"{sweep.name}/{t.number}" for t in trials} - set(by_trial)
    account.lost += [f"trial {name} has no run" for name in sorted(lacking)]


def groups_left(cluster: LocalCluster, timeout_s: float = SETTLE_S) -> list[str]:
    """Placement groups that were not removed."""
    return _none_after(lambda: [_named(g) for g in _groups(cluster) if g["state"] != "REMOVED"], timeout_s)


def _named(group: dict[str, Any]) -> str:
    return f"placement group {group['placement_group_id']} is {group['state']}"


def _groups(cluster: LocalCluster) -> list[dict[str, Any]]:
    token = {"Authorization": f"Bearer {cluster.token_file.read_text()}"}
    with fetch(f"{cluster.dashboard}/api/v0/placement_groups?limit=1000", token, timeout_s=10) as answer:
        return list(json.load(answer)["data"]["result"]["result"])


def processes_left(cluster: LocalCluster, timeout_s: float = SETTLE_S) -> list[str]:
    """Processes of trials and drivers that still run."""

    def look() -> list[str]:
        hosts = [h for h in range(cluster.hosts) if cluster.alive(h)]
        running = [(host, pid, title_of(pid)) for host in hosts for pid in cluster.pids(host)]
        return [f"process {p} on host {h}: {t}" for h, p, t in running if t.startswith(OURS) or "sweep run" in t]

    return _none_after(look, timeout_s)


def _none_after(look: Any, timeout_s: float) -> list[str]:
    until = time.monotonic() + timeout_s
    while (left := list(look())) and time.monotonic() < until:
        time.sleep(0.5)
    return left


def lost_work_s(sweep: FaultySweep) -> float:
    """Seconds of training that were done twice: of every attempt that ended with a fault, the time between the last
    epoch that it saved, or its begin, and the fault."""
    total = 0.0
    for trial in sweep.ledger.trials:
        ends = [e["time_ms"] / 1000 for e in _history(sweep, trial.number)]
        attempts = attempts_of(trial)
        for attempt, later in pairwise(attempts):
            within = [f for f in sweep.faults_s if attempt.began_s <= f <= later.began_s]
            if within:
                saved = [e for e in ends if attempt.began_s <= e <= within[-1]]
                total += within[-1] - max(saved, default=attempt.began_s)
    return total


def _history(sweep: FaultySweep, number: int) -> list[dict[str, Any]]:
    newest = Checkpoints(Store(f"{sweep.cluster.storage}/{sweep.name}/{number}")).newest(verify=False)
    return newest.history if newest else []
