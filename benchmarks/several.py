"""Several workers a trial: throughput of two against one and against bare DDP of the same step, start-up of a trial
against Ray Train's own, and what saving into object storage adds to an epoch.

One worker has one thread and half the machine; what two can gain is bounded by the cores they share.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from ..cluster.programs import free_port
from ..datasets.made.refer_kitti import Recipe, make
from ..datasets.storage.store import Store
from ..datasets.stream import stream
from ..orchestration.search.driver import Driver
from ..orchestration.spec.read import read_spec
from ..trainables import coercion
from ..trainables.ikun import build_model
from ..trainables.ikun import task as ikun
from ..trainables.training.checkpoints import Checkpoints
from ..trainables.training.loop import Training
from ..trainables.training.randomness import seed_everything
from ..trainables.training.team import Losses, ProcessTeam, Team
from .common import publish
from .servers import s3

EPOCHS = 4  # the first warms up, the last is evaluated: neither is counted
OVERHEAD, START_SHARE, SAVING = 0.05, 1.1, 0.03


def main() -> None:
    """Three tables."""
    with tempfile.TemporaryDirectory() as folder:
        data = f"{folder}/data"
        make(Store(data), Recipe(videos=6, seed=0))
        throughput(data)
        saving(data, Path(folder))
    start_up()


def config_of(epochs: int = EPOCHS, **changed: Any) -> Any:
    """The example's iKUN, evaluated after its last epoch only."""
    fields = read_spec(str(Path(__file__).parents[1] / "examples" / "ikun.yaml"))["fixed"]
    return coercion.make_config(ikun.Config, {**fields, "epochs": epochs, "evaluate_every": 1000, **changed})


def throughput(data: str) -> None:
    """Rows a second in training, by process groups of gloo on loopback; the median of three runs each."""
    cases = {"one worker": (1, "ours"), "bare DDP, two workers": (2, "bare"), "two workers": (2, "ours")}
    rates = {name: sorted(_run(data, *case) for _ in range(3))[1] for name, case in cases.items()}
    bare = rates["bare DDP, two workers"]
    rows = [
        {
            "workers": name,
            "rows/s": rate,
            "of one worker": rate / rates["one worker"],
            "of bare DDP": rate / bare,
            "target": f">= {1 - OVERHEAD:g} of bare DDP" if name == "two workers" else "",
        }
        for name, rate in rates.items()
    ]
    publish("several", "iKUN's training step, one thread a worker", rows)


def _run(data: str, size: int, how: str) -> float:
    """Rows a second of one run; the workers are processes."""
    with tempfile.TemporaryDirectory() as folder:
        port = str(free_port())
        command = [sys.executable, "-m", "refsweep.benchmarks.several"]
        started = [subprocess.Popen([*command, str(rank), str(size), port, how, data, folder]) for rank in range(size)]
        codes = [process.wait() for process in started]
        if any(codes):
            raise RuntimeError("a worker has failed")
        return float(json.loads((Path(folder) / "rows_a_second.json").read_text()))


def work(rank: int, size: int, port: str, how: str, data: str, folder: str) -> None:
    """One of the processes."""
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port, RANK=str(rank), WORLD_SIZE=str(size))
    if size > 1:
        dist.init_process_group("gloo")
    team = ProcessTeam("cpu") if size > 1 else Team()
    rows, seconds = (_ours if how == "ours" else _bare)(Store(data), team)
    if rank == 0:
        (Path(folder) / "rows_a_second.json").write_text(json.dumps(rows / seconds))
    if size > 1:
        dist.destroy_process_group()


def _ours(store: Store, team: Team) -> tuple[int, float]:
    config = config_of()
    training = Training(lambda: ikun.Task(config, ikun.open_data(store)), config, store, workers=1, team=team)
    rows = sum(part.count for part in training.plan("train", 1)) * (EPOCHS - 2)
    ends = []
    for _ in training.run():
        ends.append(time.perf_counter())
        if len(ends) == EPOCHS - 1:
            break
    return rows, ends[-1] - ends[0]


def _bare(store: Store, team: Team) -> tuple[int, float]:
    """What anybody would write: DDP, AdamW, clipping, the same batches by the same reader."""
    config = config_of()
    seed_everything(config.seed)
    made = ikun.Task(config, ikun.open_data(store))
    planner = Training(lambda: made, config, store, team=team)  # for its plan and its share of each batch only
    model = torch.nn.parallel.DistributedDataParallel(Losses(made), find_unused_parameters=True)
    optimiser = torch.optim.AdamW(made.param_groups(), lr=config.lr, weight_decay=config.weight_decay)
    epochs = [planner.plan("train", epoch) for epoch in range(EPOCHS - 1)]
    parts = [planner._share(part) for epoch in epochs for part in epoch]
    rows, began = 0, 0.0
    for place, arrays in stream(parts, made.read, store, executor="threads", workers=1):
        if place.epoch == 1 and place.index == 0:
            began = time.perf_counter()
        batch = {name: torch.from_numpy(array) for name, array in arrays.items()}
        sum(model(batch, 0.0).values(), torch.zeros(())).backward()
        torch.nn.utils.clip_grad_norm_(made.model.parameters(), config.clip_norm)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        rows += place.count * (place.epoch > 0)
    return rows, time.perf_counter() - began


def saving(data: str, folder: Path) -> None:
    """Seconds of an epoch without checkpoints, with them in a folder, and on S3 (rclone on this machine)."""
    with s3(folder, "saving") as bucket:
        places = {"none": None, "folder": str(folder / "kept"), "S3": f"{bucket}/kept"}
        turns = [{name: _epoch_s(data, place, n) for name, place in places.items()} for n in range(3)]
    runs = {name: min(turn[name] for turn in turns) for name in places}
    none = runs["none"]
    rows = [
        {
            "checkpoints": name,
            "s/epoch": seconds,
            "adds": f"{seconds / none - 1:+.1%}",
            "target": f"<= {SAVING:.0%}" if name == "S3" else "",
        }
        for name, seconds in runs.items()
    ]
    publish("saving", f"an epoch of iKUN, a checkpoint of {_checkpoint_mb():.2g} MB after each", rows)


def _epoch_s(data: str, place: str | None, run: int) -> float:
    # Epochs of some seconds: shorter ones differ among themselves by more than what is sought.
    config, store = config_of(5, windows_per_track=40), Store(data)
    checkpoints = Checkpoints(Store(f"{place}/{run}")) if place else None
    training = Training(lambda: ikun.Task(config, ikun.open_data(store)), config, store, checkpoints, workers=1)
    list(training.run())
    return min(r.seconds for r in training.history[1:-1])  # the least disturbed


def _checkpoint_mb() -> float:
    parameters = sum(p.numel() for p in build_model(config_of()).parameters())
    return parameters * 4 * 3 / 1e6  # weights and AdamW's two moments


def start_up() -> None:
    """Seconds of a trial of two workers with next to nothing to do, against bare `TorchTrainer.fit()`.

    The first optimiser of a process makes torch import its compiler, seconds of a core: whoever trains pays that.
    """
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        times = {how: json.loads(_in_a_process(how, folder)) for how in ("meet", "step", "trials")}
    mean = {how: sum(t[1:]) / len(t[1:]) for how, t in times.items()}  # the first one imports from disk
    names = {
        "meet": "TorchTrainer.fit(), workers meet and leave",
        "step": "TorchTrainer.fit(), workers take one step with DDP and AdamW",
        "trials": "a trial of one epoch",
    }
    rows = [
        {
            "start": name,
            "s": mean[how],
            "of the first": mean[how] / mean["meet"],
            "of the second": mean[how] / mean["step"],
            "target": f"<= {START_SHARE:g}" if how == "trials" else "",
        }
        for how, name in names.items()
    ]
    publish("start_up", "trials of two workers, the mean of three after the first", rows)


def _in_a_process(how: str, folder: str) -> str:
    command = [sys.executable, "-m", "refsweep.benchmarks.several", how, folder]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1]


def trials(folder: str, count: int = 4) -> list[float]:
    """Seconds of each trial of two workers."""
    from ..orchestration.execution.tune import TuneBackend
    from ..orchestration.spec.read import make_spec
    from ..orchestration.sweep import open_sweep

    content: dict[str, Any] = {"name": "two", "trainable": "toy", "data": "none", "storage": folder, "tracking": "none"}
    content |= {"objective": {"metric": "loss", "mode": "min"}, "resources": {"workers": 2}, "fixed": {"epochs": 1}}
    spec = make_spec({**content, "search": {"trials": count, "sampler": "random", "pruner": "none"}})
    ends = Ends()
    with open_sweep(spec) as sweep:
        sweep.run(TuneBackend(lambda: None, lambda _: None), observers=[ends])
    return [after - before for before, after in pairwise(ends.times_s)]


class Ends:
    """Observes when a sweep begins, and when each of its trials ends."""

    def attached(self, driver: Driver) -> None:
        """The sweep begins."""
        self.ledger, self.times_s = driver.ledger, [time.perf_counter()]

    def trial_changed(self, number: int) -> None:
        """One trial runs at a time: ends come one by one."""
        if sum(t.state.is_finished() for t in self.ledger.trials) == len(self.times_s):
            self.times_s.append(time.perf_counter())

    def ticked(self) -> None:
        """Nothing to do."""


def bare_fits(folder: str, loop: Callable[[], None], count: int = 4) -> list[float]:
    """Seconds of each bare fit of two workers."""
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    times = []
    for number in range(count):
        began = time.perf_counter()
        TorchTrainer(
            loop,
            scaling_config=ScalingConfig(num_workers=2),
            run_config=RunConfig(name=str(number), storage_path=folder),
        ).fit()
        times.append(time.perf_counter() - began)
    return times


def _meet() -> None:
    dist.all_reduce(torch.zeros(1))


def _step() -> None:
    model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(1, 1))
    optimiser = torch.optim.AdamW(model.parameters())
    model(torch.ones(1)).sum().backward()
    optimiser.step()


def _with_ray(how: str, folder: str) -> None:
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    loops = {"meet": _meet, "step": _step}
    print(json.dumps(bare_fits(f"{folder}/{how}", loops[how]) if how in loops else trials(folder)))
    ray.shutdown()


if __name__ == "__main__":
    if not sys.argv[1].isdecimal():
        _with_ray(sys.argv[1], sys.argv[2])
    else:
        work(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:7])
