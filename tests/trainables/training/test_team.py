"""Several workers train what one would have trained, agree on everything, and may change in number."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from refsweep.datasets.problems import InputError
from refsweep.tests.trainables.training.in_team import alone, together
from refsweep.trainables.toy import task as toy
from refsweep.trainables.training.loop import Training
from refsweep.trainables.training.team import Losses, ProcessTeam, Team, shares


def team(rank: int, size: int) -> Team:
    made = Team()
    made.rank, made.size = rank, size
    return made


TOY: dict[str, Any] = {"epochs": 4, "batch": 3, "x": 2.0, "y": 1.0}  # batches of 3, 3 and 2 rows of 8
ADDED = {**TOY, "accumulate": 2, "clip_norm": 1.0, "ema": 0.9, "bias_lr_factor": 2.0} | {
    "schedule": "plateau",
    "plateau_metric": "height",  # always the same: lr decays after the second epoch and the third
    "patience": 0,
}


def without_time(outcome: dict[str, Any]) -> list[Any]:
    return [(r["epoch"], r["metrics"]) for r in outcome["history"]]


def test_rows_of_a_batch_are_shared_out_and_nobody_is_without():
    assert [team(r, 3).rows(7) for r in range(3)] == [[0, 3, 6], [1, 4], [2, 5]]
    assert [team(r, 3).rows(2) for r in range(3)] == [[0], [1], [0]]
    assert [team(r, 3).loss_weight(2, summed=False) for r in range(3)] == [1.5, 1.5, 0.0]
    assert [team(r, 3).loss_weight(7, summed=True) for r in range(3)] == [3.0, 3.0, 3.0]


@pytest.mark.parametrize("count", [1, 2, 3, 8, 13])
@pytest.mark.parametrize("size", [1, 2, 5])
def test_the_mean_of_weighted_shares_is_the_whole(count: int, size: int):
    # a loss of row r is r: the mean over rows, and their sum
    teams = [team(r, size) for r in range(size)]
    means = [t.loss_weight(count, summed=False) * sum(t.rows(count)) / len(t.rows(count)) for t in teams]
    assert sum(means) / size == pytest.approx(sum(range(count)) / count)
    sums = [t.loss_weight(count, summed=True) * sum(t.rows(count)) for t in teams]
    assert sum(sums) / size == pytest.approx(sum(range(count)))


def test_shards_are_shared_out_by_size_and_each_once():
    sizes = [5, 1, 9, 3, 3, 7]
    mine = [shares(sizes, team(r, 3)) for r in range(3)]
    assert sorted(i for part in mine for i in part) == list(range(6))
    assert max(sum(sizes[i] for i in part) for part in mine) <= 10
    assert shares([4], team(1, 2)) == []


def test_two_workers_train_what_one_trains(tmp_path: Path):
    one, (two, other), (added, _), (nan, nan_too) = (
        alone({"trainable": "toy", "config": TOY}),
        *together(
            [
                {"trainable": "toy", "config": TOY},
                {"trainable": "toy", "config": ADDED},
                {"trainable": "toy", "config": {**TOY, "nan_at_epoch": 2}},
            ],
            tmp_path,
        ),
    )
    assert two["model"]["weight"] == pytest.approx(one["model"]["weight"], rel=1e-5)
    assert other["model"] == two["model"]
    assert [r["metrics"]["loss"] for r in two["history"]] == [r["metrics"]["loss"] for r in one["history"]]
    measured = [[r["metrics"]["train_parabola"] for r in outcome["history"]] for outcome in (one, two)]
    assert measured[0] == pytest.approx(measured[1], rel=1e-5)
    assert two["draw"] != other["draw"], "workers draw different numbers"
    plain = alone({"trainable": "toy", "config": ADDED})
    assert added["model"]["weight"] == pytest.approx(plain["model"]["weight"], rel=1e-5)
    assert nan["ended"] == nan_too["ended"] == "NonFiniteError", "all workers end"


def test_two_workers_stop_together_and_go_on_bit_for_bit_or_as_one(tmp_path: Path):
    # stopped within accumulated gradients: after 4 batches of 3 an epoch, of which 2 make a move
    config = {**TOY, "accumulate": 2}
    job = {"trainable": "toy", "config": config}
    parted, kept = str(tmp_path / "parted"), str(tmp_path / "kept")
    whole, stopped, resumed, _ = together(
        [
            job,
            {**job, "checkpoints": parted, "stop_after": 4},
            {**job, "checkpoints": parted, "attempt": 2},
            {**job, "checkpoints": kept, "stop_after": 4},
        ],
        tmp_path,
    )
    assert [outcome["ended"] for outcome in stopped] == ["stopped", "stopped"]
    for rank in range(2):
        assert resumed[rank]["model"] == whole[rank]["model"]
        assert resumed[rank]["draw"] == whole[rank]["draw"]
        assert without_time(resumed[rank]) == without_time(whole[rank])
    as_one = alone({**job, "checkpoints": kept, "attempt": 2})
    assert as_one["model"]["weight"] == pytest.approx(whole[0]["model"]["weight"], rel=1e-5)
    assert len(as_one["history"]) == 4


def test_a_checkpoint_of_one_worker_is_gone_on_with_by_two(tmp_path: Path):
    job = {"trainable": "toy", "config": TOY, "checkpoints": str(tmp_path / "trial")}
    assert alone({**job, "stop_after": 5})["ended"] == "stopped"
    (two, _), (fresh, _) = together([{**job, "attempt": 2}, {"trainable": "toy", "config": TOY}], tmp_path)
    assert two["model"]["weight"] == pytest.approx(fresh["model"]["weight"], rel=1e-5)
    assert len(two["history"]) == 4


def test_batch_norm_is_not_synchronised_between_cpus():
    made = object.__new__(ProcessTeam)
    made.rank, made.size, made.device = 0, 2, torch.device("cpu")
    with pytest.raises(InputError, match="sync_bn must be false on CPUs"):
        made.wrap(toy.Task(toy.Config()), sync_bn=True)


def test_one_worker_alone_wraps_nothing_that_counts():
    config = toy.Config(epochs=1)
    training = Training(lambda: toy.Task(config), config, None)
    assert isinstance(training.step.losses, Losses)
    assert set(training.task.model.state_dict()) == {"weight"}
