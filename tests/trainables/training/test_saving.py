"""Checkpoints go into object storage while training goes on; no epoch is reported before its own is there."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from refsweep.datasets.storage.store import Store
from refsweep.trainables.toy import task as toy
from refsweep.trainables.training.checkpoints import Checkpoints
from refsweep.trainables.training.loop import EpochResult, Stopped, Training

CONFIG = toy.Config(epochs=4, batch=1, x=2.0, y=1.0)  # eight batches an epoch


def training(checkpoints: Checkpoints, attempt: int = 1) -> Training:
    return Training(lambda: toy.Task(CONFIG), CONFIG, None, checkpoints, attempt=attempt, workers=1)


def bucket(s3: str, tmp_path: Path) -> Checkpoints:
    return Checkpoints(Store(f"{s3}/{tmp_path.name}"))


def test_what_arrives_is_what_a_folder_gets(s3: str, tmp_path: Path):
    there, here = bucket(s3, tmp_path), Checkpoints(Store(str(tmp_path)))
    for checkpoints in (there, here):
        assert [r.epoch for r in training(checkpoints).run()] == [1, 2, 3, 4]
    one, two = there.newest(), here.newest()
    assert one is not None
    assert two is not None
    assert there.names() == here.names()
    assert one.model()["weight"].equal(two.model()["weight"])
    assert [h["metrics"] for h in one.history] == [h["metrics"] for h in two.history]


def test_training_goes_on_meanwhile_and_an_epoch_is_said_once_it_is_safe(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    checkpoints = bucket(s3, tmp_path)
    run = training(checkpoints)
    write = Checkpoints.write
    waited: list[tuple[int, int]] = []

    def slowly(self: Checkpoints, name: Any, *rest: Any) -> None:
        until = time.monotonic() + 20
        while name.epoch < 4 and (run.epoch, run.batch) < (name.epoch, 3) and time.monotonic() < until:
            time.sleep(0.01)
        waited.append((run.epoch, run.batch))
        write(self, name, *rest)

    monkeypatch.setattr(Checkpoints, "write", slowly)
    for result in run.run():
        checkpoint = checkpoints.at_epoch(result.epoch)
        assert checkpoint is not None, "reported before it was safe"
        assert checkpoint.history[-1]["epoch"] == result.epoch
    assert all(where >= (epoch, 3) for epoch, where in enumerate(waited[:3], 1)), "training stood still"


def test_a_stop_says_what_has_landed_first_and_loses_no_batch(s3: str, tmp_path: Path):
    checkpoints = bucket(s3, tmp_path)
    run = training(checkpoints)
    reported: list[EpochResult] = []
    with pytest.raises(Stopped):
        reported.extend(run.run(lambda: (run.epoch, run.batch) >= (2, 4)))
    assert [r.epoch for r in reported] == [1, 2]
    newest = checkpoints.newest()
    assert newest is not None
    assert (newest.name.epoch, newest.name.batch) == (2, 5)
    again = training(checkpoints, attempt=2)
    again.resume()
    assert [r.epoch for r in again.run()] == [3, 4]
    whole = training(Checkpoints(Store(str(tmp_path))))
    list(whole.run())
    assert again.task.model.state_dict()["weight"].equal(whole.task.model.state_dict()["weight"])


def test_what_prevents_a_checkpoint_ends_the_training(s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Checkpoints, "write", refuse)
    with pytest.raises(OSError, match="No space left"):
        list(training(bucket(s3, tmp_path)).run())
