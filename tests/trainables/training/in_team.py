"""One worker of several, for tests: `python -m refsweep.tests.trainables.training.in_team RANK SIZE PORT JOB`.

JOB is a JSON file with a `kind`, a folder `out` and what the kind needs; the worker writes OUT/RANK.json.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from refsweep.cluster.programs import free_port
from refsweep.datasets.storage.store import Store
from refsweep.tests.trainables.training.line import after
from refsweep.trainables import coercion, discovery
from refsweep.trainables.training.checkpoints import Checkpoints
from refsweep.trainables.training.loop import Stopped, Training
from refsweep.trainables.training.team import ProcessTeam, Team


def trained(job: dict[str, Any], team: Team) -> dict[str, Any]:
    """Trains a Config to its end, or stops it after `stop_after` batches."""
    module = discovery.load(job["trainable"])
    config = coercion.make_config(module.Config, job["config"])
    store = Store(job["data"]) if job.get("data", "none") != "none" else None
    training = Training(
        lambda: module.Task(config, module.open_data(store)),
        config,
        store,
        Checkpoints(Store(job["checkpoints"])) if job.get("checkpoints") else None,
        attempt=job.get("attempt", 1),
        workers=1,
        team=team,
    )
    training.resume()
    outcome: dict[str, Any] = {"ended": "done"}
    try:
        list(training.run(after(job.get("stop_after"))))
    except Stopped:
        outcome["ended"] = "stopped"
    except Exception as error:  # noqa: BLE001  compared by the test
        outcome["ended"] = type(error).__name__
    outcome["history"] = [r.as_json() for r in training.history]
    outcome["model"] = {k: v.flatten().tolist() for k, v in training.task.model.state_dict().items()}
    outcome["draw"] = torch.rand(3).tolist()
    return outcome


def together(jobs: list[dict[str, Any]], folder: Path, size: int = 2) -> list[list[dict[str, Any]]]:
    """What each of several workers says of each job: `trained`, in processes of their own."""
    path = folder / "jobs.json"
    jobs = [{"out": str(folder / str(i)), **job} for i, job in enumerate(jobs)]
    path.write_text(json.dumps(jobs))
    port = free_port()
    command = [sys.executable, "-m", "refsweep.tests.trainables.training.in_team"]
    workers = [subprocess.Popen([*command, str(rank), str(size), str(port), str(path)]) for rank in range(size)]
    assert [w.wait(240) for w in workers] == [0] * size
    return [[json.loads((Path(job["out"]) / f"{r}.json").read_text()) for r in range(size)] for job in jobs]


def alone(job: dict[str, Any]) -> dict[str, Any]:
    """What one worker says of a job, in this process."""
    return trained(job, Team())


def main() -> None:
    """Joins the others, does the jobs, writes a result each."""
    rank, size, port, path = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], Path(sys.argv[4])
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port, RANK=str(rank), WORLD_SIZE=str(size))
    dist.init_process_group("gloo")
    for job in json.loads(path.read_text()):
        outcome = trained(job, ProcessTeam("cpu"))
        Path(job["out"]).mkdir(exist_ok=True)
        (Path(job["out"]) / f"{rank}.json").write_text(json.dumps(outcome))
        dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
