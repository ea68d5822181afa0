"""Every part of a cluster is broken once under a running sweep, and nothing is lost."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from refsweep.benchmarks.fault_accounts import Account, accounted
from refsweep.benchmarks.fault_kinds import FAULTS
from refsweep.benchmarks.fault_sweeps import FaultySweep, Shape
from refsweep.cluster.local import LocalCluster
from refsweep.cluster.programs import MissingError
from refsweep.orchestration.tracking.client import make_client
from refsweep.orchestration.tracking.projector import SWEEP, TRIAL
from refsweep.tests.cluster.conftest import missing

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]


def survived(cluster: LocalCluster, folder: Path, name: str) -> tuple[FaultySweep, Account]:
    fault = FAULTS[name]
    if fault.needs_namespaces and not cluster.namespaces:
        missing("this fault needs hosts in network namespaces: root, and `ip` (iproute2)")
    sweep = FaultySweep(cluster, folder, fault.shape)
    try:
        fault.strike(sweep, random.Random(f"1/{name}"))
    except MissingError as error:
        missing(str(error))
    return sweep, accounted(sweep)


@pytest.mark.parametrize("name", list(FAULTS))
def test_nothing_is_lost_doubled_or_left_behind_and_the_results_are_those_of_the_undisturbed_sweep(
    name: str, cluster: LocalCluster, tmp_path: Path
):
    sweep, account = survived(cluster, tmp_path, name)
    assert len(sweep.faults_s) == FAULTS[name].moments
    attempts = sum(t.user_attrs["attempt"] - 1 for t in sweep.ledger.trials)
    sweep.close()
    assert account.problems == []
    assert attempts >= FAULTS[name].repeats, "the fault has hit no trial"


def test_an_account_sees_what_is_doubled_orphaned_different_and_missing(cluster: LocalCluster, tmp_path: Path):
    sweep = FaultySweep(cluster, tmp_path, Shape(trials=2, epochs=1, seconds_per_epoch=0.0))
    sweep.drive()
    sweep.wait_for_driver()
    assert accounted(sweep).problems == []
    client = make_client(cluster.tracking)
    experiment = client.get_experiment_by_name("toy").experiment_id
    client.create_run(experiment, tags={SWEEP: sweep.name, TRIAL: f"{sweep.name}/0"})
    [second] = client.search_runs([experiment], f"tags.`{TRIAL}` = '{sweep.name}/1'")
    client.log_metric(second.info.run_id, "loss", 7.0, step=1)
    sweep.shape = Shape(trials=3, epochs=1)
    account = accounted(sweep)
    sweep.close()
    assert account.lost == ["trial 2 is missing"]
    assert sorted(problem.partition(sweep.name)[2] for problem in account.duplicates) == [
        "/0 has 2 runs",
        "/0 is an orphan",
    ]
    assert [problem.endswith("is RUNNING in MLflow") for problem in account.running] == [True]
    assert [f"of trial {sweep.name}/1" in problem for problem in account.differs] == [True]
