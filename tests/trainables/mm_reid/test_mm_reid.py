"""mm_reid's Task over files in ORBench's layout: what it trains on and for, and how it goes on after a stop.

Each defect of the published code that is not repeated has a test, here or in test_mm_answers.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from refsweep.datasets.problems import DataError, InputError
from refsweep.datasets.storage.store import Store
from refsweep.search_spaces.mm_reid import BLOCKS
from refsweep.tests.trainables.mm_people import TINY, config, make_task, predictions, read, write_people
from refsweep.trainables import coercion
from refsweep.trainables.mm_reid import evaluate as evaluation
from refsweep.trainables.mm_reid import losses as objective
from refsweep.trainables.mm_reid import task as mm_reid
from refsweep.trainables.mm_reid.model import MODALITIES
from refsweep.trainables.mm_reid.ramp import Ramp
from refsweep.trainables.towers.clip import SIZES
from refsweep.trainables.training.checkpoints import Checkpoints
from refsweep.trainables.training.loop import Stopped, Training
from torch import Tensor


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_people(tmp_path_factory.mktemp("people"))


@pytest.fixture(scope="module")
def made(people: Path) -> mm_reid.Task:
    return make_task(people)


def test_a_training_batch_holds_what_its_plan_says(made: mm_reid.Task):
    rows = made.plan("train", 0, 0).slice(2, 4)
    arrays = made.read(rows, made.data.store)
    plan = rows.to_pylist()
    assert arrays["image"].shape == (sum(len(r["images"]) for r in plan), 32, 16, 3)
    assert arrays["image"].dtype == np.uint8
    assert arrays["modality"].tolist() == [i["modality"] for r in plan for i in r["images"]]
    assert arrays["image_row"].tolist() == [n for n, r in enumerate(plan) for _ in r["images"]]
    assert arrays["text_row"].tolist() == [n for n, r in enumerate(plan) if r["text"]]
    assert arrays["token"].shape == (len(arrays["text_row"]), 20)
    assert arrays["label"].tolist() == [r["label"] for r in plan]
    again = made.read(rows, made.data.store)
    assert all(np.array_equal(arrays[name], again[name]) for name in arrays)
    other = made.read(made.plan("train", 1, 0).slice(2, 4), made.data.store)
    assert not np.array_equal(arrays["label"], other["label"]) or arrays["image"].shape != other["image"].shape


def test_an_identity_in_one_modality_alone_is_left_out_and_counted(made: mm_reid.Task):
    assert made.pools.identities == [1, 2, 3, 4]
    assert made.skipped() == {"unpaired_identities": 1, "captions_cut": 0}
    assert made.facts()["counts"].items() > made.skipped().items()
    assert made.model.classifier.out_features == 4


@torch.no_grad()
def test_alignment_uses_bn_features_and_not_raw_ones(made: mm_reid.Task):
    """The published code aligned raw features and retrieved by others."""
    batch = read(made, "train")
    grid_BMD, there_BM = objective.features(made.model, batch)
    sets = objective.sets_of(there_BM)
    raw_SD, bn_SD = made.model.fuse(grid_BMD[sets.row_S], sets.there_SM)
    c, identity_S = made.config, batch["label"][sets.row_S]
    of = {
        name: objective.aligned(c.sdm_kind, x_SD, identity_S, sets.kind_S, c.temperature).item()
        for name, x_SD in (("bn", bn_SD), ("raw", raw_SD))
    }
    found = made.losses(batch, 1.0)["sdm"].item()
    assert found == pytest.approx(of["bn"], rel=1e-5)
    assert abs(found - of["raw"]) > 1e-3


@torch.no_grad()
def test_training_and_evaluation_fuse_the_same_features(made: mm_reid.Task):
    """The published code fused the SDM head's output in training and raw features in evaluation."""
    batch = read(made, "calibration", count=1000)
    grid_BMD, there_BM = objective.features(made.model, batch)
    _, bn_SD = made.model.fuse(grid_BMD, there_BM)
    single_ND = evaluation.Encoded(
        made.model, made.questions("calibration"), predictions(made)["calibration"]["feature"]
    )
    np.testing.assert_allclose(single_ND._single_ND, evaluation.normalised(bn_SD.numpy()), atol=1e-5)


@torch.no_grad()
def test_a_single_modality_goes_through_fusion_like_several(made: mm_reid.Task):
    """The published code let single ones pass by, so that galleries and queries had features of two kinds."""
    feature_SMD = torch.randn(2, 5, 16)
    alone = torch.tensor([[True, False, False, False, False]] * 2)
    before = made.model.fuse(feature_SMD, alone)[1]
    assert (before - made.model.neck(feature_SMD[:, 0])).abs().max() > 0.1
    blocks: Any = made.model.fusion.blocks
    for parameter in blocks[0].features.parameters():
        parameter += 0.1
    moved = (made.model.fuse(feature_SMD, alone)[1] - before).abs().max()
    for parameter in blocks[0].features.parameters():
        parameter -= 0.1
    assert moved > 0.01


@torch.no_grad()
def test_the_sdm_head_looks_at_all_tokens_and_not_at_one(made: mm_reid.Task):
    """The published code's attention had one token to look at, which makes it a linear layer."""
    head = made.model.head
    pooled, state = torch.randn(2, 64), torch.randn(2, 6, 64)
    changed = state.clone()
    changed[:, 4] += 3 * torch.randn(64)
    assert (head(pooled, state) - head(pooled, changed)).abs().max() > 1e-3
    padding = torch.zeros(2, 6, dtype=torch.bool)
    padding[:, 4] = True
    torch.testing.assert_close(head(pooled, state, padding), head(pooled, changed, padding))


def test_the_penalty_of_lengths_is_there_and_acts_before_the_bnneck(made: mm_reid.Task):
    """The published code had lost it. Lengths 5 and 9 with 10 +- 2: (5 - 8)^2 and nothing."""
    raw_SD = torch.tensor([[3.0, 4.0], [9.0, 0.0], [0.0, 15.0]])
    assert objective.norm_penalty(raw_SD, 10.0, 2.0).item() == pytest.approx((9 + 0 + 9) / 3)
    batch = read(made, "train")
    with torch.no_grad():
        grid_BMD, there_BM = objective.features(made.model, batch)
        sets = objective.sets_of(there_BM)
        raw_SD, _ = made.model.fuse(grid_BMD[sets.row_S], sets.there_SM)
        terms = made.losses(batch, 1.0)
    assert terms["norm"].item() == pytest.approx(0.01 * objective.norm_penalty(raw_SD, 10.0, 2.0).item(), rel=1e-4)
    assert terms["feature_norm"].item() == pytest.approx(raw_SD.norm(dim=-1).mean().item(), rel=1e-4)


@torch.no_grad()
def test_what_is_missing_is_masked_whatever_stands_there(made: mm_reid.Task):
    there = torch.tensor([[True, False, True, False, True], [False, True, False, False, False]])
    one, two = torch.randn(2, 5, 16), torch.randn(2, 5, 16)
    two[there] = one[there]
    two[~there] = torch.nan
    torch.testing.assert_close(made.model.fusion(one, there), made.model.fusion(two, there), rtol=0, atol=0)
    assert made.model.fusion(one, ~there).isfinite().all()
    with pytest.raises(ValueError, match="at least one modality"):
        made.model.fusion(one, torch.zeros_like(there))


def test_null_tokens_are_learned_and_have_the_features_dtype(people: Path):
    """A zero tensor of another dtype stood there in published code."""
    fusion = make_task(people).model.fusion
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
    assert mm_reid.Config().ramp == Ramp(start=5, full=25, unit="epochs")
    assert mm_reid.Config(epochs=4).ramp == Ramp(start=5 / 60, full=25 / 60, unit="share")


def test_each_part_has_its_own_learning_rate(made: mm_reid.Task):
    groups = [{id(p) for p in group["params"]} for group in made.param_groups()]
    trained = [p for p in made.model.parameters() if p.requires_grad]
    assert sum(map(len, groups)) == len(trained) == len(set.union(*groups))
    model = made.model
    parts: Any = ((model.clip.visual.transformer, 0), (model.mer, 1), (model.tokenizers, 1), (model.head, 1))
    for part, group in parts:
        assert {id(p) for p in part.parameters()} <= groups[group]
    assert groups[2] == {id(model.classifier.weight)}
    published = mm_reid.Config()
    assert (published.tower_lr, published.lr, published.classifier_lr) == (1e-5, 5e-5, 3e-3)


def test_one_identity_to_train_on_is_refused_and_says_what_is_missing(people: Path, tmp_path: Path):
    for split in ("train", "val", "test"):
        for modality in MODALITIES[:4]:
            for path in (people / split / modality).iterdir():
                if split != "train" or path.name in ("0003", "0005"):
                    target = tmp_path / split / modality / path.name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.symlink_to(path)
        items = json.loads((people / split / "text_annos.json").read_text())
        kept = [i for i in items if split != "train" or "0003" in i["file_path"]]
        (tmp_path / split / "text_annos.json").write_text(json.dumps(kept))
    with pytest.raises(DataError, match="needs 2 identities with vis and another modality, got 1; 1 have only one"):
        make_task(tmp_path).plan("train", 0, 0)


def run(
    c: mm_reid.Config, people: Path, folder: Path | None, stop_after: int | None = None, attempt: int = 1
) -> Training:
    store = Store(str(people))
    checkpoints = Checkpoints(Store(str(folder))) if folder else None
    training = Training(
        lambda: mm_reid.Task(c, mm_reid.open_data(store)), c, store, checkpoints, attempt=attempt, workers=1
    )
    training.resume()
    left = [stop_after]

    def stop() -> bool:
        if left[0] is None:
            return False
        left[0] -= 1
        return left[0] == 0

    with contextlib.suppress(Stopped):
        list(training.run(stop))
    return training


def leaves(training: Training) -> list[Any]:
    state = {name: value for name, value in training.state().items() if name != "seconds"}
    return torch.utils._pytree.tree_leaves([training.task.model.state_dict(), state])


def test_stopped_after_any_batch_and_resumed_equals_uninterrupted(people: Path, tmp_path: Path):
    c = config(evaluate_every=2, clip_quantile=0.5, fusion_dropout=0.3)
    whole = run(c, people, None)
    assert whole.batches_per_epoch == 2
    assert len(whole.step.clipping.state()) == 4
    assert set(whole.history[0].metrics) >= {
        "train_identity", "train_sdm", "train_norm", "train_feature_norm", "train_gradient_norm", "train_spikes",
        "train_identities", "train_fewest_rows", "train_paired",
    }  # fmt: skip
    for stop_after in (1, 2, 3):
        run(c, people, tmp_path / str(stop_after), stop_after)
        resumed = run(c, people, tmp_path / str(stop_after), attempt=2)
        for one, two in zip(leaves(resumed), leaves(whole), strict=True):
            assert torch.equal(one, two) if isinstance(one, Tensor) else one == two
        assert [(r.metrics, r.setting) for r in resumed.history] == [(r.metrics, r.setting) for r in whole.history]


def test_what_is_only_watched_is_not_minimised(people: Path):
    history = run(config(epochs=1), people, None).history[0].metrics
    parts = ("train_identity", "train_sdm", "train_norm")
    assert history["train_loss"] == pytest.approx(sum(history[p] for p in parts), rel=1e-5)
    assert (history["train_identities"], history["train_fewest_rows"], history["train_paired"]) == (3, 2, 1)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"tower": "RN50"}, "tower must be a ViT, one of ViT-B-32, ViT-B-16, ViT-tiny, ViT-tiny-77, got 'RN50'"),
        ({"height_px": 40}, "height_px must be a multiple of 16 with ViT-tiny, got 40"),
        ({"lora_rank": (4, 4)}, "lora_rank must be one value or 3, one a block, got 2"),
        ({"lora_rank": (4, 65, 0)}, "lora_rank must be in 0..64, got 65"),
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
        ({"mix": (0.5, 2.0)}, "mix must be in 0..1, got 2.0"),
        ({"clip_quantile": 1.0}, "clip_quantile must be in 0..1 or null, got 1.0"),
    ],
)
def test_a_bad_config_says_rule_and_value(fields: dict[str, Any], said: str):
    with pytest.raises(InputError) as caught:
        coercion.make_config(mm_reid, {**TINY, **fields})
    assert said in str(caught.value)


def test_kl_may_be_sharper_and_blocks_may_differ():
    made: Any = coercion.make_config(mm_reid, {**TINY, "sdm_kind": "kl", "temperature": 0.02, "lora_rank": (0, 4, 8)})
    assert made.ranks == (0, 4, 8)
    made = coercion.make_config(mm_reid, coercion.plain({"lora_alpha": [1] * 12}))
    assert made.alphas == (1.0,) * 12


def test_the_search_space_knows_the_blocks_of_every_vit():
    vits = {name: sizes.layers[0] for name, sizes in SIZES.items() if len(sizes.layers) == 1}
    assert vits == BLOCKS
