"""Breaks every part of a cluster under a running sweep and counts what that cost.

    python -m refsweep.benchmarks.faults [--only FAULT] [--rounds N] [--seed S] [--json]

A cluster of three hosts on this machine, with S3, PostgreSQL and MLflow. Every fault comes at random moments of a
small sweep; afterwards all trials, MLflow runs, placement groups and processes are accounted for, and every result
is compared with that of the same sweep undisturbed. Some twenty minutes: `make bench` leaves it out.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..cluster.local import LocalCluster
from ..orchestration.ledger.records import TrialRecord
from .common import publish
from .fault_accounts import Account, accounted
from .fault_kinds import FAULTS, Fault
from .fault_sweeps import FaultySweep


def main(words: Sequence[str] = ()) -> None:
    """The matrix. Ends with exit code 1 when anything was lost, is there twice, runs on or differs."""
    options = _options(words)
    names = [options.only] if options.only else list(FAULTS)
    rows, problems = list[dict[str, Any]](), list[str]()
    with tempfile.TemporaryDirectory() as folder, LocalCluster(Path(folder) / "cluster", hosts=3) as cluster:
        os.environ.update(cluster.environment())
        for name in names:
            chance = random.Random(f"{options.seed}/{name}")
            try:
                row, faults = _measured(cluster, Path(folder), name, FAULTS[name], chance, options.rounds)
            except RuntimeError as error:  # the sweep did not survive, or the fault could not be made
                problems.append(f"{name}: {error}")
                sys.stderr.write(f"{problems[-1]}\n")
                continue
            rows.append(row)
            problems += [f"{name}: {problem}" for problem in faults]
            sys.stderr.write(f"{row}\n")
    if options.json:
        sys.stdout.write(json.dumps(rows) + "\n")
    else:
        publish("faults", f"faults of every part, seed {options.seed}", rows)
    if problems:
        sys.exit("\n".join(problems))


def _options(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="faults", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", choices=list(FAULTS), help="one fault")
    parser.add_argument("--rounds", type=int, default=1, help="sweeps a fault")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--json", action="store_true", help="one JSON array on stdout and nothing else")
    return parser.parse_args(list(words))


def _measured(
    cluster: LocalCluster, folder: Path, name: str, fault: Fault, chance: random.Random, rounds: int
) -> tuple[dict[str, Any], list[str]]:
    """A fault's row, and all that is wrong after it."""
    accounts = [survived(cluster, folder, fault, chance) for _ in range(rounds)]
    row = {
        "fault": name,
        "moments": fault.moments * rounds,
        "lost": sum(len(account.lost) for account in accounts),
        "duplicates": sum(len(account.duplicates) for account in accounts),
        "running": sum(len(account.running) for account in accounts),
        "lost_work_s": round(sum(account.lost_work_s for account in accounts), 1),
    }
    return row, [problem for account in accounts for problem in account.problems]


def survived(cluster: LocalCluster, folder: Path, fault: Fault, chance: random.Random) -> Account:
    """What a sweep comes to under a fault. The cluster is whole before."""
    cluster.mend()
    sweep = FaultySweep(cluster, folder, fault.shape)
    try:
        fault.strike(sweep, chance)
        account = accounted(sweep)
        if sum(TrialRecord.of(t).attempt - 1 for t in sweep.ledger.trials) < fault.repeats:
            account.differs.append("the fault has hit no trial: it came between two")
        return account
    finally:
        sweep.close()


if __name__ == "__main__":
    main(sys.argv[1:])
