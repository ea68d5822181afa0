"""The figures of `t2i_reid`, and how a trained one answers."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from refsweep.datasets.layouts.cuhk_pedes import PersonText
from refsweep.datasets.problems import DataError, InputError
from refsweep.datasets.storage.store import Store
from refsweep.datasets.stream import Arrays
from refsweep.tests.trainables.t2i_reid.case import SMALL, write_people
from refsweep.tests.trainables.tools import Family, predicted, trained
from refsweep.trainables.reid.evaluation import choose, similarities
from refsweep.trainables.t2i_reid import METRICS, Config, Task
from refsweep.trainables.t2i_reid.evaluate import queries_of
from refsweep.trainables.t2i_reid.serve import serve
from refsweep.trainables.training.package import Package

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def family(family_of: Callable[[str], Family]) -> Family:
    return family_of("t2i_reid")


def other_data(family: Family, folder: Path) -> Family:
    """The family on other data."""
    return dataclasses.replace(family, folder=folder)


@pytest.mark.parametrize(("query", "count"), [("identity", 24), ("caption", 24), ("clothing", 24)])
def test_queries_are_texts_and_the_gallery_is_every_picture(query: str, count: int, family: Family):
    """Not repeated: a private split in which queries are pictures with captions too."""
    task = family.task(query=query)
    plan = task.plan("validation", 0, 0).to_pylist()
    pictures, queries = ([row for row in plan if (row["text"] >= 0) == text] for text in (False, True))
    assert [row["path"] for row in pictures] == task.data.images("validation").column("path").to_pylist()
    assert len(queries) == count
    assert all(row["path"] == "" for row in queries)


def perfect(task: Task, split: str) -> Arrays:
    """Features that tell people apart, in the order of the plan."""
    identity = task.data.images(split).column("identity").to_numpy()
    of_query = identity[queries_of(task.data, split, task.config.query).column("image").to_numpy()]
    who = np.concatenate([identity, of_query])
    feature = (who[:, None] == np.unique(identity)).astype(np.float32)
    is_text = np.arange(len(who)) >= len(identity)
    return {"feature": feature, "is_text": is_text, "cosine": np.where(is_text, np.nan, 0.25).astype(np.float32)}


def test_figures_are_in_percent_and_nothing_is_multiplied(family: Family):
    """Not repeated: mAP x 2 and Rank-1/5/10 x 1.8/1.5/1.5."""
    task = family.task()
    predictions = {split: perfect(task, split) for split in task.eval_splits}
    scores = task.evaluate(predictions)
    assert {scores.metrics[m] for m in ("rank1", "rank5", "rank10", "map", "map100", "minp")} == {100.0}
    assert scores.metrics["feature_cosine"] == pytest.approx(25)
    # one picture of another person in front of the right ones of every query: rank 1 is 0, the mean over 3 is known
    validation = predictions["validation"]
    identity = task.data.images("validation").column("identity").to_numpy()
    wide = np.zeros((len(validation["feature"]), 5), np.float32)
    wide[:, :4] = validation["feature"] * 0.6
    wide[:, 4] = 0.8 * validation["is_text"]
    first = np.flatnonzero(identity == identity[0])[0]
    wide[np.arange(len(identity)), 4], wide[first, 4] = 0, 0.8
    wide[: len(identity)] /= np.linalg.norm(wide[: len(identity)], axis=1, keepdims=True)
    figures = task.evaluate({"validation": {**validation, "feature": wide}}, {}).metrics
    # 18 of 24 queries are of the other three people: right at places 2, 3 and 4
    expected = (18 * np.mean([1 / 2, 2 / 3, 3 / 4]) + 6 * 1) / 24
    assert figures["rank1"] == pytest.approx(25)
    assert figures["map"] == pytest.approx(100 * expected)


def test_the_last_figures_are_those_of_the_last_weights(family: Family):
    """Not repeated: a gallery whose features are kept from the first evaluation."""
    training = trained(family.training(epochs=3, lr=5e-3))
    fresh = family.task()
    fresh.model.load_state_dict(training.task.model.state_dict())
    last = training.history[-1]
    again = fresh.evaluate({split: predicted(fresh, split, family.store) for split in fresh.eval_splits})
    assert again.setting == last.setting
    for name in METRICS:
        assert last.metrics[name] == pytest.approx(again.metrics[name], abs=1e-3)
    assert len({r.metrics["feature_cosine"] for r in training.history}) == 3


def test_the_weight_of_fusion_is_chosen_where_it_helps(family: Family):
    task = family.task(fusion="pooled", fusion_weight=(2.0,))
    predictions = {}
    for split in task.eval_splits:
        arrays = perfect(task, split)
        arrays["feature"] = np.random.default_rng(0).normal(size=(len(arrays["is_text"]), 16)).astype(np.float32)
        arrays["feature"] /= np.linalg.norm(arrays["feature"], axis=1, keepdims=True)
        predictions[split] = arrays
    scores = task.evaluate(predictions)
    assert scores.setting["bonus"] in (0.0, 2.0)
    helped = task.retrieval("calibration", predictions["calibration"])
    truth = helped.truth
    oracle = (truth.query_id_Q[:, None] == truth.gallery_id_G).astype(np.float32)
    better = dataclasses.replace(helped, bonus_QG=oracle)
    assert choose([better], task.config.grid(), bonuses=(2.0,))["bonus"] == 2.0
    assert choose([dataclasses.replace(helped, bonus_QG=-oracle)], task.config.grid(), bonuses=(2.0,))["bonus"] == 0.0


def test_captions_that_say_nothing_of_the_query_are_not_asked_with(tmp_path: Path):
    write_people(tmp_path)
    path = tmp_path / "caption_all.json"
    items = json.loads(path.read_text())
    for item in items:
        item["captions"] = item["captions"][:1]
    silent = next(i for i in items if i["split"] == "test")
    silent["captions"] = ["Wearing a red shirt."]
    path.write_text(json.dumps(items))
    data = PersonText(Store(str(tmp_path)))
    assert queries_of(data, "test", "identity").num_rows == data.images("test").num_rows - 1
    assert queries_of(data, "test", "clothing").num_rows == data.images("test").num_rows


def test_a_picture_that_will_not_decode_is_named(family: Family, tmp_path: Path):
    write_people(tmp_path)
    task = other_data(family, tmp_path).task()
    plan = task.plan("train", 0, 0)
    path = plan.column("path")[0].as_py()
    (tmp_path / path).write_bytes(b"no picture")
    with pytest.raises(DataError, match=path):
        task.read(plan.slice(0, 2), task.data.store)


@pytest.mark.parametrize("fusion", [None, "tokens"])
def test_a_package_answers_as_the_evaluation_ranks(fusion: str | None, family: Family, tmp_path: Path):
    task = family.task(fusion=fusion, fusion_top=100)
    task.plan("train", 0, 0)
    setting = {"bonus": 0.5} if fusion else {"qe_k": 2.0, "qe_alpha": 1.0}
    retrieval = task.retrieval("validation", predicted(task, "validation", family.store))
    expected = similarities(retrieval.features, setting, retrieval.bonus_QG)
    family.package(task, setting).write(Store(str(tmp_path)))
    served = serve(Package.read(Store(str(tmp_path))))
    files = [task.data.store.read(path) for path in task.data.images("validation").column("path").to_pylist()]
    texts = queries_of(task.data, "validation", "identity").column("identity_text").to_pylist()[:3]
    out = served.predict({"text": texts, "gallery": [files] * 3})
    for row in range(3):
        np.testing.assert_allclose(out["score"][row], expected[row][out["order"][row]], atol=2e-3)
        assert out["score"][row] == sorted(out["score"][row], reverse=True)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": [" "], "gallery": [["x"]]}, "gallery image 0 must be a PNG or JPEG"),
        ({"text": ["a man"], "gallery": [[]]}, "at least one image"),
    ],
)
def test_a_query_that_can_not_be_answered_is_refused(row: Any, message: str, family: Family):
    served = serve(family.package(family.task(), {}))
    with pytest.raises(InputError, match=message):
        served.predict(row)
    with pytest.raises(InputError, match="a query must have a text"):
        served.encode_query({"text": ""})


def test_a_model_of_other_people_is_measured_and_goes_on_learning(family: Family, tmp_path: Path):
    write_people(tmp_path / "data", train=4)
    others = other_data(family, tmp_path / "data")
    learnt = family.task()
    other = others.task()
    assert len(other.model.classifier.weight) == 4
    other.model.load_state_dict(learnt.model.state_dict())
    assert len(other.model.classifier.weight) == 7
    family.package(learnt, {}).write(Store(str(tmp_path / "package")))
    begun: Any = others.training(init=str(tmp_path / "package")).task
    assert len(begun.model.classifier.weight) == 4
    assert torch.equal(begun.model.shared_mlp.weight, learnt.model.shared_mlp.weight)
    with pytest.raises(InputError, match="does not fit"):
        others.task(init=str(tmp_path / "package"), shared_dim=32)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"tower": "resnet"}, "tower must be one of vit-base, vit-tiny, conv-tiny, got 'resnet'"),
        ({"text_tower": "gpt"}, "text_tower must be one of bert-base, bert-tiny, got 'gpt'"),
        ({"text_tower": "bert-base"}, "equally wide, got 96 and 768"),
        ({"height_px": 30}, "height_px must be a multiple of 16 with conv-tiny, got 30"),
        ({"max_tokens": 200}, r"max_tokens must be in 3..128 with bert-tiny, got 200"),
        ({"batch": 1}, "batch must hold at least two identities.* got 1 and 0"),
        ({"batch": 6, "per_identity": 4}, "two identities, in multiples of per_identity, got 6 and 4"),
        ({"grl_schedule": "cosine"}, "grl_schedule must be one of seed, linear, dann, constant, got 'cosine'"),
        ({"schedule_unit": "training"}, "grl_until must be above 0 and at most 1 in training, got 45"),
        ({"cloth_adv_kind": "both"}, "cloth_adv_kind must be one of away, reversal, got 'both'"),
        ({"temperature": 0.0}, "temperature must be in"),
        ({"decouple": -1.0}, "decouple must be in 0..100, got -1"),
        ({"rerank_k1": (0,)}, "rerank and expand: k1 must be a whole number >= 1, got 0"),
        ({"fusion": "pooled", "fusion_heads": 3}, "fusion_heads must divide embed_dim, got 3 and 16"),
    ],
)
def test_a_bad_config_is_refused_with_rule_and_value(changed: Any, message: str):
    with pytest.raises(ValueError, match=message):
        Config(**{**SMALL, **changed})
