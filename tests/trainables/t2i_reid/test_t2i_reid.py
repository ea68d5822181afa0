"""`t2i_reid` in training: it stops and goes on bit for bit, and each loss reaches what it is meant for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from refsweep.tests.trainables.people import config, make_task, predicted, read, terms_of, train
from refsweep.tests.trainables.training.test_loop import equal
from refsweep.trainables.t2i_reid.losses import LOSSES
from torch import Tensor

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(
    "changed",
    [
        {"fusion": "tokens", "erase": 0.5, "ema": 0.9},
        {"fusion": "pooled", "per_identity": 2, "tower": "vit-tiny", "accumulate": 2, "decouple_kind": "hsic"},
    ],
)
def test_stopped_after_any_batch_and_resumed_equals_uninterrupted(changed: Any, people: Path, tmp_path: Path):
    settings = config(**changed)
    whole = train(settings, None, people)
    batches = settings.epochs * whole.batches_per_epoch
    assert batches >= 6
    for stopped in range(1, batches + 1, 1 if "ema" in changed else 3):
        folder = tmp_path / str(stopped)
        first = train(settings, folder, people, stop_after=stopped)
        assert (first.epoch, first.batch) != (settings.epochs, 0)
        assert equal(train(settings, folder, people, attempt=2), whole), f"stopped after batch {stopped}"


def test_the_mean_loss_falls(people: Path):
    without = {"cloth": 0.0, "cloth_match": 0.0, "cloth_adv": 0.0, "decouple": 0.0}  # opponents may raise a loss
    history = train(config(epochs=8, lr=3e-3, dropout=0.0, fusion="pooled", **without), None, people).history
    for loss in ("info_nce", "cls", "fuse"):
        assert history[-1].metrics[f"train_{loss}"] < history[0].metrics[f"train_{loss}"]


def test_the_losses_own_projectors_reach_the_optimiser_and_learn(people: Path):
    """Not repeated: projectors that are made by the losses and left where they started."""
    training = train(config(fusion="tokens"), None, people)
    task = make_task(people, fusion="tokens")
    given = {id(p) for group in training.task.param_groups() for p in group["params"]}
    assert given == {id(p) for p in training.task.model.parameters()}
    before, after = task.model.state_dict(), training.task.model.state_dict()
    for name in ("bio_projector", "cloth_projector", "decouple_id", "decouple_cloth", "match", "patch_projection"):
        assert not torch.equal(before[f"{name}.weight"], after[f"{name}.weight"]), name


def test_every_loss_has_its_weight(people: Path):
    ones = dict.fromkeys(LOSSES, 1.0)
    plain = terms_of(make_task(people, fusion="pooled", **ones))
    assert set(plain) == set(LOSSES)
    for loss in LOSSES:
        weighted = terms_of(make_task(people, fusion="pooled", **{**ones, loss: 0.25}))
        assert weighted[loss].item() == pytest.approx(0.25 * plain[loss].item(), rel=1e-4)
        without = terms_of(make_task(people, fusion="pooled", **{**ones, loss: 0.0}))
        assert set(without) == set(LOSSES) - {loss}


def test_the_adversarys_weight_grows_as_published(people: Path):
    task = make_task(people, epochs=80, cloth_adv=0.5)
    for epoch in (0, 3, 16, 40):
        assert task.objective.weight("cloth_adv", epoch / 80) == pytest.approx(0.5 * min(1, 0.2 + 0.05 * epoch))
        assert task.objective.alpha(epoch / 80) == pytest.approx(min(1, 0.1 + 0.02 * epoch))


def test_the_reversed_adversary_teaches_its_projector_and_moves_the_identity_feature_the_other_way(people: Path):
    alone = {**dict.fromkeys(LOSSES, 0.0), "cloth_adv": 1.0, "cloth_adv_kind": "reversal", "cloth_adv_until": 1e-6}
    task = make_task(people, **alone, dropout=0.0)
    rows = task.plan("train", 0, 0).slice(0, 12)
    optimiser = torch.optim.SGD(task.model.adversary.parameters(), lr=0.5)
    before = terms_of(task)["cloth_adv"].item()
    for _ in range(20):
        optimiser.zero_grad()
        task.losses(read(task, rows), 0.5)["cloth_adv"].backward()
        optimiser.step()
    learned = task.losses(read(task, rows), 0.5)["cloth_adv"].item()
    assert learned < before - 0.05
    optimiser = torch.optim.SGD(task.model.id_projection.parameters(), lr=0.5)
    optimiser.zero_grad()
    task.losses(read(task, rows), 0.5)["cloth_adv"].backward()
    optimiser.step()
    assert task.losses(read(task, rows), 0.5)["cloth_adv"].item() > learned


@pytest.mark.parametrize("fusion", ["pooled", "tokens"])
def test_fusion_has_a_loss_that_trains_it(fusion: str, people: Path):
    """Not repeated: fused features that enter no loss, yet evaluation ranks by them."""
    task = make_task(people, fusion=fusion)
    terms_of(task)["fuse"].backward()
    gradients = {name: p.grad for name, p in task.model.named_parameters() if p.grad is not None}
    fused = {name.removeprefix("fusion."): g for name, g in gradients.items() if name.startswith("fusion.")}
    assert len(fused) == len(list(task.model.fusion.parameters()))
    trained = ["out.weight", "gate.0.weight", "image_attends.out_proj.weight", "text_attends.out_proj.weight", "scale"]
    assert all(fused[name].abs().max() > 0 for name in trained)
    asking = fused["text_attends.in_proj_weight"][: task.config.embed_dim]
    assert (asking.abs().max() > 0) == (fusion == "tokens"), "over one token there is nothing to ask for"
    assert gradients["image_tower.body.body.0.weight"].abs().max() > 0


def test_fused_similarities_without_their_loss_are_not_ranked_by(people: Path):
    task = make_task(people, fusion="pooled", fuse=0.0)
    assert task.retrieval("validation", predicted(task, "validation")).bonus_QG is None


def clothing_gradients(folder: Path, alpha: float) -> dict[str, Tensor]:
    alone = {**dict.fromkeys(LOSSES, 0.0), "cloth": 1.0}
    task = make_task(folder, **alone, grl_alpha=alpha, grl_schedule="constant", dropout=0.0)
    terms_of(task)["cloth"].backward()
    return {name: p.grad for name, p in task.model.named_parameters() if p.grad is not None}


def test_the_clothing_loss_reaches_the_trunk_reversed_and_the_heads_as_it_is(people: Path):
    weak, strong, none = (clothing_gradients(people, alpha) for alpha in (0.5, 1.0, 0.0))
    for trunk in ("cloth_projection.weight", "image_tower.body.body.0.weight"):
        torch.testing.assert_close(strong[trunk], 2 * weak[trunk])
        assert none[trunk].abs().max() == 0
        assert strong[trunk].abs().max() > 0
    torch.testing.assert_close(strong["cloth_projector.weight"], none["cloth_projector.weight"])


def test_each_text_is_encoded_once_and_gives_the_same_losses_in_any_order(people: Path):
    task = make_task(people, dropout=0.0)
    task.model.eval()
    batch = read(task, task.plan("train", 0, 0).slice(0, 10))
    other = {name: value.flip(0) for name, value in batch.items()}
    one, two = (task.losses(b, 0.3) for b in (batch, other))
    for loss in one:
        torch.testing.assert_close(one[loss], two[loss])
