"""mm_reid's Task over files in ORBench's layout: what it trains on and for, and how it goes on after a stop.

Each defect of the published code that is not repeated has a test, here or in test_mm_answers.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from refsweep.datasets.problems import DataError, InputError
from refsweep.search_spaces.mm_reid import BLOCKS
from refsweep.tests.trainables.mm_reid.case import TINY
from refsweep.tests.trainables.tools import Family, predicted, read, trained
from refsweep.trainables import coercion
from refsweep.trainables.mm_reid import Config, Task
from refsweep.trainables.mm_reid import evaluate as evaluation
from refsweep.trainables.mm_reid import losses as objective
from refsweep.trainables.mm_reid.config import MODALITIES, Ramp
from refsweep.trainables.towers.sizes import CLIP
from torch import Tensor


@pytest.fixture(scope="module")
def family(family_of: Callable[[str], Family]) -> Family:
    return family_of("mm_reid")


@pytest.fixture(scope="module")
def task(family: Family) -> Task:
    made: Task = family.task()
    return made


def batch_of(task: Task, split: str, count: int = 6) -> dict[str, Tensor]:
    return read(task, task.plan(split, 0, 0).slice(0, count), task.data.store)


def test_a_training_batch_holds_what_its_plan_says(task: Task):
    rows = task.plan("train", 0, 0).slice(2, 4)
    arrays = task.read(rows, task.data.store)
    plan = rows.to_pylist()
    assert arrays["image"].shape == (sum(len(r["images"]) for r in plan), 32, 16, 3)
    assert arrays["image"].dtype == np.uint8
    assert arrays["modality"].tolist() == [i["modality"] for r in plan for i in r["images"]]
    assert arrays["image_row"].tolist() == [n for n, r in enumerate(plan) for _ in r["images"]]
    assert arrays["text_row"].tolist() == [n for n, r in enumerate(plan) if r["text"]]
    assert arrays["token"].shape == (len(arrays["text_row"]), 20)
    assert arrays["label"].tolist() == [r["label"] for r in plan]


def test_an_identity_in_one_modality_alone_is_left_out_and_counted(task: Task):
    assert task.pools.identities == [1, 2, 3, 4]
    assert task.facts()["counts"].items() > {"unpaired_identities": 1, "captions_cut": 0}.items()
    assert task.model.classifier.out_features == 4


@torch.no_grad()
def test_alignment_uses_bn_features_and_not_raw_ones(task: Task):
    """The published code aligned raw features and retrieved by others."""
    batch = batch_of(task, "train")
    grid_BMD, there_BM = task.model.encode_batch(batch)
    sets = objective.sets_of(there_BM)
    raw_SD, bn_SD = task.model.fuse(grid_BMD[sets.row_S], sets.there_SM)
    c, identity_S = task.config, batch["label"][sets.row_S]
    of = {
        name: objective.aligned(c.sdm_kind, x_SD, identity_S, sets.kind_S, c.temperature).item()
        for name, x_SD in (("bn", bn_SD), ("raw", raw_SD))
    }
    sdm = task.losses(batch, 1.0)["sdm"].item()
    assert sdm == pytest.approx(of["bn"], rel=1e-5)
    assert abs(sdm - of["raw"]) > 1e-3


@torch.no_grad()
def test_training_and_evaluation_fuse_the_same_features(task: Task):
    """The published code fused the SDM head's output in training and raw features in evaluation."""
    batch = batch_of(task, "calibration", count=1000)
    grid_BMD, there_BM = task.model.encode_batch(batch)
    _, bn_SD = task.model.fuse(grid_BMD, there_BM)
    feature_ND = predicted(task, "calibration", task.data.store)["feature"]
    encoded = evaluation.Encoded(task.model, task.evaluation_set("calibration"), feature_ND)
    np.testing.assert_allclose(encoded._single_ND, evaluation.normalised(bn_SD.numpy()), atol=1e-5)


@torch.no_grad()
def test_a_single_modality_goes_through_fusion_like_several(task: Task):
    """The published code let single ones pass by, so that galleries and queries had features of two kinds."""
    feature_SMD = torch.randn(2, 5, 16)
    alone = torch.tensor([[True, False, False, False, False]] * 2)
    before = task.model.fuse(feature_SMD, alone)[1]
    assert (before - task.model.neck(feature_SMD[:, 0])).abs().max() > 0.1
    blocks: Any = task.model.fusion.blocks
    for parameter in blocks[0].features.parameters():
        parameter += 0.1
    moved = (task.model.fuse(feature_SMD, alone)[1] - before).abs().max()
    for parameter in blocks[0].features.parameters():
        parameter -= 0.1
    assert moved > 0.01


@torch.no_grad()
def test_the_sdm_head_looks_at_all_tokens_and_not_at_one(task: Task):
    """The published code's attention had one token to look at, which makes it a linear layer."""
    head = task.model.head
    pooled, state = torch.randn(2, 64), torch.randn(2, 6, 64)
    changed = state.clone()
    changed[:, 4] += 3 * torch.randn(64)
    assert (head(pooled, state) - head(pooled, changed)).abs().max() > 1e-3
    padding = torch.zeros(2, 6, dtype=torch.bool)
    padding[:, 4] = True
    torch.testing.assert_close(head(pooled, state, padding), head(pooled, changed, padding))


def test_the_penalty_of_lengths_is_there_and_acts_before_the_bnneck(task: Task):
    """The published code had lost it. Lengths 5 and 9 with 10 +- 2: (5 - 8)^2 and nothing."""
    raw_SD = torch.tensor([[3.0, 4.0], [9.0, 0.0], [0.0, 15.0]])
    assert objective.norm_penalty(raw_SD, 10.0, 2.0).item() == pytest.approx((9 + 0 + 9) / 3)
    batch = batch_of(task, "train")
    with torch.no_grad():
        grid_BMD, there_BM = task.model.encode_batch(batch)
        sets = objective.sets_of(there_BM)
        raw_SD, _ = task.model.fuse(grid_BMD[sets.row_S], sets.there_SM)
        terms = task.losses(batch, 1.0)
    assert terms["norm"].item() == pytest.approx(0.01 * objective.norm_penalty(raw_SD, 10.0, 2.0).item(), rel=1e-4)
    assert terms["feature_norm"].item() == pytest.approx(raw_SD.norm(dim=-1).mean().item(), rel=1e-4)


@torch.no_grad()
def test_what_is_missing_is_masked_whatever_stands_there(task: Task):
    there = torch.tensor([[True, False, True, False, True], [False, True, False, False, False]])
    one, two = torch.randn(2, 5, 16), torch.randn(2, 5, 16)
    two[there] = one[there]
    two[~there] = torch.nan
    torch.testing.assert_close(task.model.fusion(one, there), task.model.fusion(two, there), rtol=0, atol=0)
    assert task.model.fusion(one, ~there).isfinite().all()
    with pytest.raises(ValueError, match="at least one modality"):
        task.model.fusion(one, torch.zeros_like(there))


def test_null_tokens_are_learned_and_have_the_features_dtype(family: Family):
    """A zero tensor of another dtype stood there in published code."""
    fusion = family.task().model.fusion
    feature = torch.randn(3, 5, 16)
    there = torch.tensor([[True, False, True, True, False]] * 3)
    fusion(feature, there).sum().backward()
    assert fusion.null_MD.grad is not None
    assert fusion.null_MD.grad[[1, 4]].abs().sum() > 0
    assert fusion.null_MD.grad[[0, 2, 3]].abs().sum() == 0
    assert fusion.null_MD.detach().abs().min() > 0
    halves = fusion.to(torch.bfloat16)(feature.bfloat16(), there)
    assert halves.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("progress", "expected"), [(0.0, 0), (4.99 / 60, 0), (5 / 60, 1 / 20), (14 / 60, 0.5), (24 / 60, 1), (1.0, 1)]
)
def test_lambda_is_zero_for_five_epochs_rises_until_the_25th_and_stays(progress: float, expected: float):
    assert Ramp()(progress, 60) == pytest.approx(expected)


def test_lambda_in_shares_of_the_training_reaches_its_full_value_in_a_short_one():
    ramp = Ramp(start=0.1, full=0.5, unit="share")
    assert [ramp(p, 2) for p in (0.0, 0.1, 0.3, 0.5, 0.9)] == pytest.approx([0, 0, 0.5, 1, 1])


def test_a_training_too_short_for_the_published_epochs_goes_through_their_shares():
    assert Config().ramp == Ramp(start=5, full=25, unit="epochs")
    assert Config(epochs=4).ramp == Ramp(start=5 / 60, full=25 / 60, unit="share")


def test_each_part_has_its_own_learning_rate(task: Task):
    groups = [{id(p) for p in group["params"]} for group in task.param_groups()]
    trained = [p for p in task.model.parameters() if p.requires_grad]
    assert sum(map(len, groups)) == len(trained) == len(set.union(*groups))
    model = task.model
    parts: Any = ((model.clip.visual.transformer, 0), (model.mer, 1), (model.tokenizers, 1), (model.head, 1))
    for part, group in parts:
        assert {id(p) for p in part.parameters()} <= groups[group]
    assert groups[2] == {id(model.classifier.weight)}
    published = Config()
    assert (published.tower_lr, published.lr, published.classifier_lr) == (1e-5, 5e-5, 3e-3)


def test_one_identity_to_train_on_is_refused_and_says_what_is_missing(family: Family, tmp_path: Path):
    people = family.folder
    for split in ("train", "val", "test"):
        for modality in MODALITIES[:4]:
            for path in (people / split / modality).iterdir():
                if split != "train" or path.name in ("0003", "0005"):
                    shutil.copytree(path, tmp_path / split / modality / path.name)
        items = json.loads((people / split / "text_annos.json").read_text())
        kept = [i for i in items if split != "train" or "0003" in i["file_path"]]
        (tmp_path / split / "text_annos.json").write_text(json.dumps(kept))
    with pytest.raises(DataError, match="needs 2 identities with vis and another modality, got 1; 1 have only one"):
        dataclasses.replace(family, folder=tmp_path).task().plan("train", 0, 0)


def test_an_epoch_measures_losses_gradients_and_batches(family: Family):
    metrics = trained(family.training(epochs=1, clip_quantile=0.5)).history[0].metrics
    assert set(metrics) >= {
        "train_identity", "train_sdm", "train_norm", "train_feature_norm", "train_gradient_norm", "train_spikes",
        "train_identities", "train_fewest_rows", "train_paired",
    }  # fmt: skip
    parts = ("train_identity", "train_sdm", "train_norm")
    assert metrics["train_loss"] == pytest.approx(sum(metrics[p] for p in parts), rel=1e-5), "the rest is only measured"
    assert (metrics["train_identities"], metrics["train_fewest_rows"], metrics["train_paired"]) == (3, 2, 1)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tower": "RN50"}, "tower must be a ViT, one of ViT-B-32, ViT-B-16, ViT-tiny, ViT-tiny-77, got 'RN50'"),
        ({"height_px": 40}, "height_px must be a multiple of 16 with ViT-tiny, got 40"),
        ({"lora_rank": (4, 4)}, "lora_rank must be one value or 3, one a block, got 2"),
        ({"lora_rank": (4, 65, 0)}, "lora_rank must be in 0..64, got (4, 65, 0)"),
        ({"batch": 7}, "batch must be a multiple of per_identity, twice or more, got 7"),
        ({"batch": 2}, "batch must be a multiple of per_identity, twice or more, got 2"),
        ({"temperature": 0.02}, "temperature must be in 0.15..0.5 with soft_targets, got 0.02"),
        (
            {"sdm_ramp": "epochs", "sdm_start": 5.0, "sdm_full": 25.0},
            "sdm_start must be >= 0 and < 2 where sdm_ramp counts epochs, got 5",
        ),
        ({"sdm_full": 0.1}, "sdm_full must be > sdm_start, 0.2, got 0.1"),
        ({"heads": 3}, "heads must divide 16, the width of width, got 3"),
        ({"min_modalities": 6}, "min_modalities must be in 1..5, got 6"),
        ({"mix": (0.5, 2.0)}, "mix must be in 0..1, got (0.5, 2.0)"),
        ({"clip_quantile": 1.0}, "clip_quantile must be in 0..1 or null, got 1.0"),
    ],
)
def test_a_bad_config_says_rule_and_value(fields: dict[str, Any], message: str):
    with pytest.raises(InputError) as caught:
        coercion.make_config(Config, {**TINY, **fields})
    assert message in str(caught.value)


def test_kl_may_be_sharper_and_blocks_may_differ():
    made = coercion.make_config(Config, {**TINY, "sdm_kind": "kl", "temperature": 0.02, "lora_rank": (0, 4, 8)})
    assert made.ranks == (0, 4, 8)
    made = coercion.make_config(Config, {"lora_alpha": [1] * 12})
    assert made.alphas == (1.0,) * 12


def test_the_search_space_knows_the_blocks_of_every_vit():
    vits = {name: sizes.layers[0] for name, sizes in CLIP.items() if sizes.is_vit}
    assert vits == BLOCKS
