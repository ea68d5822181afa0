"""`t2i_reid` in training: each loss reaches what it is meant for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from refsweep.tests.trainables.tools import Family, predicted, read, trained
from refsweep.trainables.t2i_reid.losses import LOSSES
from torch import Tensor

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def family(family_of: Callable[[str], Family]) -> Family:
    return family_of("t2i_reid")


def at_start(family: Family, **changed: Any) -> Any:
    """A task with the first weights of its seed."""
    return family.training(**changed).task


def terms_of(task: Any, rows: int = 12, progress: float = 0.5) -> dict[str, Tensor]:
    torch.manual_seed(1)
    task.model.train()
    return task.losses(read(task, task.plan("train", 0, 0).slice(0, rows), task.data.store), progress)


def test_the_mean_loss_falls(family: Family):
    without = {"cloth": 0.0, "cloth_match": 0.0, "cloth_adv": 0.0, "decouple": 0.0}  # opponents may raise a loss
    history = trained(family.training(epochs=8, lr=3e-3, dropout=0.0, fusion="pooled", **without)).history
    for loss in ("info_nce", "cls", "fuse"):
        assert history[-1].metrics[f"train_{loss}"] < history[0].metrics[f"train_{loss}"]


def test_the_losses_own_projectors_reach_the_optimiser_and_learn(family: Family):
    """Not repeated: projectors that are made by the losses and left where they started."""
    training = trained(family.training(fusion="tokens"))
    task = at_start(family, fusion="tokens")
    given = {id(p) for group in training.task.param_groups() for p in group["params"]}
    assert given == {id(p) for p in training.task.model.parameters()}
    before, after = task.model.state_dict(), training.task.model.state_dict()
    for name in ("bio_projector", "cloth_projector", "decouple_id", "decouple_cloth", "match", "patch_projection"):
        assert not torch.equal(before[f"{name}.weight"], after[f"{name}.weight"]), name


def test_every_loss_has_its_weight(family: Family):
    ones = dict.fromkeys(LOSSES, 1.0)
    plain = terms_of(at_start(family, fusion="pooled", **ones))
    assert set(plain) == set(LOSSES)
    for loss in LOSSES:
        weighted = terms_of(at_start(family, fusion="pooled", **{**ones, loss: 0.25}))
        assert weighted[loss].item() == pytest.approx(0.25 * plain[loss].item(), rel=1e-4)
        without = terms_of(at_start(family, fusion="pooled", **{**ones, loss: 0.0}))
        assert set(without) == set(LOSSES) - {loss}


def test_the_adversarys_weight_grows_as_published(family: Family):
    task = at_start(family, epochs=80, cloth_adv=0.5)
    for epoch in (0, 3, 16, 40):
        assert task.objective.weight("cloth_adv", epoch / 80) == pytest.approx(0.5 * min(1, 0.2 + 0.05 * epoch))
        assert task.objective.alpha(epoch / 80) == pytest.approx(min(1, 0.1 + 0.02 * epoch))


def test_the_reversed_adversary_teaches_its_projector_and_moves_the_identity_feature_the_other_way(family: Family):
    alone = {**dict.fromkeys(LOSSES, 0.0), "cloth_adv": 1.0, "cloth_adv_kind": "reversal", "cloth_adv_until": 1e-6}
    task = at_start(family, **alone, dropout=0.0)
    rows = task.plan("train", 0, 0).slice(0, 12)
    optimiser = torch.optim.SGD(task.model.adversary.parameters(), lr=0.5)
    before = terms_of(task)["cloth_adv"].item()
    for _ in range(20):
        optimiser.zero_grad()
        task.losses(read(task, rows, family.store), 0.5)["cloth_adv"].backward()
        optimiser.step()
    learned = task.losses(read(task, rows, family.store), 0.5)["cloth_adv"].item()
    assert learned < before - 0.05
    optimiser = torch.optim.SGD(task.model.id_projection.parameters(), lr=0.5)
    optimiser.zero_grad()
    task.losses(read(task, rows, family.store), 0.5)["cloth_adv"].backward()
    optimiser.step()
    assert task.losses(read(task, rows, family.store), 0.5)["cloth_adv"].item() > learned


@pytest.mark.parametrize("fusion", ["pooled", "tokens"])
def test_fusion_has_a_loss_that_trains_it(fusion: str, family: Family):
    """Not repeated: fused features that enter no loss, yet evaluation ranks by them."""
    task = at_start(family, fusion=fusion)
    terms_of(task)["fuse"].backward()
    gradients = {name: p.grad for name, p in task.model.named_parameters() if p.grad is not None}
    fused = {name.removeprefix("fusion."): g for name, g in gradients.items() if name.startswith("fusion.")}
    assert len(fused) == len(list(task.model.fusion.parameters()))
    trained = ["out.weight", "gate.0.weight", "image_attends.out_proj.weight", "text_attends.out_proj.weight", "scale"]
    assert all(fused[name].abs().max() > 0 for name in trained)
    asking = fused["text_attends.in_proj_weight"][: task.config.embed_dim]
    assert (asking.abs().max() > 0) == (fusion == "tokens"), "over one token there is nothing to ask for"
    assert gradients["image_tower.body.body.0.weight"].abs().max() > 0


def test_fused_similarities_without_their_loss_are_not_ranked_by(family: Family):
    task = family.task(fusion="pooled", fuse=0.0)
    assert task.retrieval("validation", predicted(task, "validation", family.store)).bonus_QG is None


def clothing_gradients(family: Family, alpha: float) -> dict[str, Tensor]:
    alone = {**dict.fromkeys(LOSSES, 0.0), "cloth": 1.0}
    task = at_start(family, **alone, grl_alpha=alpha, grl_schedule="constant", dropout=0.0)
    terms_of(task)["cloth"].backward()
    return {name: p.grad for name, p in task.model.named_parameters() if p.grad is not None}


def test_the_clothing_loss_reaches_the_trunk_reversed_and_the_heads_as_it_is(family: Family):
    weak, strong, none = (clothing_gradients(family, alpha) for alpha in (0.5, 1.0, 0.0))
    for trunk in ("cloth_projection.weight", "image_tower.body.body.0.weight"):
        torch.testing.assert_close(strong[trunk], 2 * weak[trunk])
        assert none[trunk].abs().max() == 0
        assert strong[trunk].abs().max() > 0
    torch.testing.assert_close(strong["cloth_projector.weight"], none["cloth_projector.weight"])


def test_each_text_is_encoded_once_and_gives_the_same_losses_in_any_order(family: Family):
    task = at_start(family, dropout=0.0)
    task.model.eval()
    batch = read(task, task.plan("train", 0, 0).slice(0, 10), family.store)
    other = {name: value.flip(0) for name, value in batch.items()}
    one, two = (task.losses(b, 0.3) for b in (batch, other))
    for loss in one:
        torch.testing.assert_close(one[loss], two[loss])
