"""The loop stops after any batch and goes on bit for bit; what it writes can be trusted."""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from refsweep.datasets.problems import InputError
from refsweep.datasets.storage.store import Store
from refsweep.tests.trainables.ikun.case import TINY
from refsweep.tests.trainables.training.line import after
from refsweep.trainables.contract import Task
from refsweep.trainables.ikun import task as ikun
from refsweep.trainables.toy import task as toy
from refsweep.trainables.training.checkpoints import Checkpoints, Name
from refsweep.trainables.training.config import LoopConfig
from refsweep.trainables.training.loop import NonFiniteError, Stopped, Training

pytestmark = pytest.mark.usefixtures("one_thread")


def train(
    config: LoopConfig, folder: Path | None, made: Path, stop_after: int | None = None, attempt: int = 1
) -> Training:
    """Trains to the end, or until so many batches are done in this process."""
    store = Store(str(made))

    def task() -> Task:
        return toy.Task(config) if isinstance(config, toy.Config) else ikun.Task(config, ikun.open_data(store))

    checkpoints = Checkpoints(Store(str(folder))) if folder else None
    training = Training(task, config, store, checkpoints, attempt=attempt, workers=2)
    training.resume()
    with contextlib.suppress(Stopped):
        list(training.run(after(stop_after)))
    return training


def equal(a: Training, b: Training) -> bool:
    """Whether weights, buffers, optimiser, generators and measured values agree to the last bit."""
    one, two = a.task.model.state_dict(), b.task.model.state_dict()
    same = one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)
    first, second = a.state(), b.state()
    flat_a, flat_b = (
        torch.utils._pytree.tree_leaves({k: v for k, v in s.items() if k != "seconds"}) for s in (first, second)
    )
    same &= len(flat_a) == len(flat_b)
    for x, y in zip(flat_a, flat_b, strict=True):
        same &= torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y
    return same and [(r.epoch, r.metrics, r.setting) for r in a.history] == [
        (r.epoch, r.metrics, r.setting) for r in b.history
    ]


VARIANTS: dict[str, LoopConfig] = {
    "toy": toy.Config(epochs=3, noise=0.5),
    "ikun": ikun.Config(**TINY, kum_mode="cross_correlation", dropout=0.3, geometry=True),
    "ikun, EMA, accumulation, clipping, warm-up": ikun.Config(
        **TINY, kum_mode="cascade", ema=0.9, accumulate=2, clip_norm=1.0, warmup=0.3, guidance_start=0.4
    ),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_stopped_after_any_batch_and_resumed_equals_uninterrupted(name: str, made: Path, tmp_path: Path):
    config = VARIANTS[name]
    whole = train(config, None, made)
    batches = config.epochs * whole.batches_per_epoch
    assert batches >= 5
    for cut in range(1, batches + 1):
        folder = tmp_path / str(cut)
        first = train(config, folder, made, stop_after=cut)
        assert (first.epoch, first.batch) != (config.epochs, 0)
        resumed = train(config, folder, made, attempt=2)
        assert equal(resumed, whole), f"stopped after batch {cut}"


def test_resumed_from_every_epochs_checkpoint_equals_uninterrupted(made: Path, tmp_path: Path):
    """As after SIGKILL: nothing was saved since the epoch's end."""
    config = VARIANTS["ikun"]
    whole = train(config, tmp_path / "a", made)
    Store(str(tmp_path / "a")).delete("epoch-0002.1")
    assert equal(train(config, tmp_path / "a", made, attempt=2), whole)


def test_the_seed_decides(made: Path):
    a, b, c = (train(ikun.Config(**TINY, seed=s), None, made) for s in (1, 1, 2))
    assert equal(a, b)
    assert not equal(a, c)


def test_the_mean_loss_falls(made: Path):
    config = ikun.Config(**{**TINY, "epochs": 6, "windows_per_track": 2}, kum_mode="cascade", geometry=True)
    losses = [r.metrics["train_focal"] for r in train(config, None, made).history]
    assert losses[-1] < 0.85 * losses[0]


def test_checkpoints_kept_are_the_two_newest_and_the_best(tmp_path: Path):
    config = toy.Config(epochs=6, noise=3.0, seed=5)
    checkpoints = Checkpoints(Store(str(tmp_path)))
    training = Training(lambda: toy.Task(config), config, None, checkpoints, best=("loss", "min"))
    values = {r.epoch: r.metrics["loss"] for r in training.run()}
    best = min(values, key=lambda e: values[e])
    assert best < 5, "the seed must put the best in the middle for this test to mean something"
    assert {n.epoch for n in checkpoints.names()} == {5, 6, best}


def test_a_manifest_says_what_it_holds(tmp_path: Path):
    train(toy.Config(epochs=2), tmp_path, tmp_path)
    manifest = json.loads((tmp_path / "epoch-0002.1" / "manifest.json").read_text())
    assert manifest["final"] is True
    assert [entry["epoch"] for entry in manifest["history"]] == [1, 2]
    assert manifest["history"][0]["time_ms"] > 1.7e12
    assert set(manifest["files"]) == {"model.safetensors", "state.pt"}
    torch.load(tmp_path / "epoch-0002.1" / "state.pt", weights_only=True)


def test_another_configs_checkpoint_is_refused(tmp_path: Path):
    train(toy.Config(epochs=2), tmp_path, tmp_path)
    with pytest.raises(InputError, match="another Config"):
        train(toy.Config(epochs=2, x=1.0), tmp_path, tmp_path)


@pytest.mark.parametrize("file", ["model.safetensors", "state.pt", "manifest.json"])
@pytest.mark.parametrize("harm", ["cut", "edited", "missing"])
def test_a_torn_or_edited_checkpoint_is_refused_and_the_one_before_used(file: str, harm: str, tmp_path: Path):
    train(toy.Config(epochs=3), tmp_path, tmp_path)
    path = tmp_path / "epoch-0003.1" / file
    content = bytearray(path.read_bytes())
    if harm == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif harm == "missing":
        path.unlink()
    elif file == "manifest.json":
        path.write_text(path.read_text().replace('"format": 1', '"format": 99'))
    else:
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    checkpoints = Checkpoints(Store(str(tmp_path)))
    newest = checkpoints.newest()
    assert newest is not None
    assert newest.name == Name(1, 2)
    whole = train(toy.Config(epochs=3), None, tmp_path)
    assert equal(train(toy.Config(epochs=3), tmp_path, tmp_path, attempt=2), whole)


def test_a_zombie_of_an_earlier_attempt_is_not_believed(tmp_path: Path):
    """Attempt 2 has gone on from epoch 1; attempt 1, which lives on for a while, writes epochs 2 and 3."""
    train(toy.Config(epochs=3), tmp_path / "one", tmp_path)
    checkpoints = Checkpoints(Store(str(tmp_path / "both")))
    for name, source in ((Name(2, 2), "epoch-0002.1"), (Name(1, 3), "epoch-0003.1")):
        for file in ("model.safetensors", "state.pt", "manifest.json"):
            content = (tmp_path / "one" / source / file).read_bytes()
            checkpoints.store.write(f"{name}/{file}", content)
    newest = checkpoints.newest()
    assert newest is not None
    assert newest.name == Name(2, 2)


def test_names_sort_by_attempt_then_progress_and_read_back():
    names = [Name(1, 9), Name(2, 3), Name(2, 3, 7), Name(2, 4), Name(10, 1)]
    assert sorted(names, reverse=True)[0] == Name(10, 1)
    assert sorted(names)[:2] == [Name(1, 9), Name(2, 3)]
    assert [Name.parse(str(n)) for n in names] == names
    assert Name.parse("epoch-0007") is None
    assert Name.parse("notes") is None


def test_a_loss_that_is_not_a_number_ends_training_and_says_where():
    config = toy.Config(nan_at_epoch=2)
    with pytest.raises(NonFiniteError, match="epoch 2, batch 1: parabola nan"):
        list(Training(lambda: toy.Task(config), config, None).run())


def test_by_default_a_training_is_what_it_was_in_the_first_release(made: Path):
    """Recorded at commit 4a374ca: learning rate and weight after each move, and the losses of iKUN."""
    config = toy.Config(epochs=4, batch=3, accumulate=2, clip_norm=1.0, ema=0.9, warmup=0.3, x=2.0, y=1.0)
    training = Training(lambda: toy.Task(config), config, None)
    moves: list[tuple[float, float]] = []

    def record(optimiser: Any, *_: Any) -> None:
        moves.append((optimiser.param_groups[0]["lr"], training.task.model.state_dict()["weight"].item()))

    training.step.optimiser.register_step_post_hook(record)
    list(training.run())
    rates = [1 / 36, 1 / 18, 0.09944154131125643, 0.09330127018922195]
    rates += [0.0647377587205452, 0.046263495320678805, 0.013347406408508667, 0.0034563125677897822]
    weights = [0.020290976390242577, 0.07584641873836517, 0.17528721690177917, 0.2685868442058563]
    weights += [0.3333228528499603, 0.37958478927612305, 0.3929316997528076, 0.39638787508010864]
    assert [lr for lr, _ in moves] == pytest.approx(rates, rel=1e-12)
    assert [weight for _, weight in moves] == pytest.approx(weights, rel=1e-6)
    with training.evaluated_model() as model:
        assert model.state_dict()["weight"].item() == pytest.approx(0.1597992330789566, rel=1e-6)
    history = train(VARIANTS["ikun, EMA, accumulation, clipping, warm-up"], None, made).history
    losses = [result.metrics["train_focal"] for result in history]
    assert losses == pytest.approx([3.6740236282348633, 3.6825429797172546], rel=1e-4)


def test_when_training_began_is_told_apart_from_start_up(tmp_path: Path):
    config = toy.Config(epochs=2, seconds_per_epoch=0.05)
    before = time.time()
    training = Training(lambda: toy.Task(config), config, None, Checkpoints(Store(str(tmp_path))))
    read = training.task.read

    def slowly(rows: Any, store: Store) -> Any:
        time.sleep(0.2)  # reading the first batch is start-up too
        return read(rows, store)

    training.task.read = slowly  # type: ignore[misc]
    unknown = training.training_began_s
    first, _ = training.run()
    assert unknown is None
    assert training.training_began_s is not None
    assert before + 0.2 <= training.training_began_s <= first.time_ms / 1000 - 0.05
    again = Training(lambda: toy.Task(config), config, None, Checkpoints(Store(str(tmp_path))), attempt=2)
    again.resume()
    assert list(again.run()) == []
    assert again.training_began_s is None, "this attempt trained nothing"


def test_evaluation_may_be_rarer_than_epochs_but_the_last_is_evaluated():
    config = toy.Config(epochs=5, evaluate_every=2)
    history = list(Training(lambda: toy.Task(config), config, None).run())
    assert [("loss" in r.metrics) for r in history] == [False, True, False, True, True]
