"""What mm_reid is asked, how its answers are measured, and a package that answers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from refsweep.datasets.problems import InputError
from refsweep.datasets.storage.store import Store
from refsweep.tests.trainables.mm_people import config, make_task, predictions, write_people
from refsweep.trainables.mm_reid import evaluate as evaluation
from refsweep.trainables.mm_reid import task as mm_reid
from refsweep.trainables.mm_reid.data import cut_texts, tokenize
from refsweep.trainables.mm_reid.evaluate import COMBINATIONS, Mix, name_of
from refsweep.trainables.mm_reid.model import MODALITIES
from refsweep.trainables.training.package import Package


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_people(tmp_path_factory.mktemp("people"))


@pytest.fixture(scope="module")
def made(people: Path) -> mm_reid.Task:
    return make_task(people)


def test_features_of_samples_do_not_depend_on_how_the_plan_is_cut(made: mm_reid.Task):
    whole, parts = predictions(made, 1000), predictions(made, 5)
    for split in made.eval_splits:
        assert len(whole[split]["feature"]) == made.plan(split, 0, 0).num_rows == sum(made.stretches(split))
        np.testing.assert_allclose(whole[split]["feature"], parts[split]["feature"], atol=1e-5)


def test_queries_are_all_fifteen_combinations_and_the_gallery_is_vis_alone(made: mm_reid.Task):
    asked = made.questions("validation")
    assert len(asked.queries) == len(COMBINATIONS) == 15
    assert {name_of(c) for c in COMBINATIONS} >= {"nir", "text", "nir+sk", "nir+sk+cp+text"}
    assert set(asked.modality_N[asked.gallery]) == {0}
    for combination, rows in asked.queries.items():
        assert rows.shape == (3 * 2, len(combination))  # three identities of two queries each
        assert (asked.modality_N[rows] == np.array(combination)).all()
        assert (asked.identity_N[rows] == asked.identity_N[rows[:, :1]]).all()


def test_the_protocol_knows_the_modalities_by_their_present_names(made: mm_reid.Task):
    """The published protocol script used names the data no longer has, and features of before the BNNeck."""
    assert set(made.data.samples("test").column("modality").to_pylist()) == set(MODALITIES)
    found = made.evaluate(predictions(made)).metrics
    assert set(found) == set(mm_reid.METRICS)
    assert {"map_nir", "map_sk", "map_cp", "map_text"} <= set(found)


def test_the_setting_is_chosen_on_calibration_only(made: mm_reid.Task):
    found = predictions(made)
    chosen = made.evaluate(found).setting
    noise = np.random.default_rng(0).standard_normal(found["validation"]["feature"].shape).astype(np.float32)
    other = made.evaluate({**found, "validation": {"feature": noise}})
    assert other.setting == chosen
    again = made.evaluate({"validation": found["validation"]}, {"mix": 0.75, "text_weight": 2.0})
    assert again.setting == {"mix": 0.75, "text_weight": 2.0}
    assert made.examine("validation", found["validation"], again.setting)["map"] == again.metrics["map"]


def test_map_is_the_mean_over_combinations_and_sizes_are_means_of_theirs(made: mm_reid.Task):
    found = made.examine("validation", predictions(made)["validation"], {})
    each = {c: found[f"map_{name_of(c)}"] for c in COMBINATIONS}
    assert found["map"] == pytest.approx(np.mean(list(each.values())))
    for size in range(1, 5):
        assert found[f"map_{size}"] == pytest.approx(np.mean([v for c, v in each.items() if len(c) == size]))


def test_a_mixture_is_the_weighted_mean_worked_out_by_hand():
    fused, single = np.array([[1.0, 0.0]], np.float32), np.array([[[0.0, 1.0], [1.0, 0.0]]], np.float32)
    # half fused, half the singles: nir weighs 1, text 3
    found = Mix(0.5, 3.0)(fused, single, (1, 4))
    expected = np.array([0.5 + 0.5 * 0.75, 0.5 * 0.25])
    np.testing.assert_allclose(found[0], expected / np.linalg.norm(expected), rtol=1e-6)
    assert Mix(0.5, 3.0)(fused, single[:, :1], (4,)) is fused


@pytest.fixture(scope="module")
def package(made: mm_reid.Task, tmp_path_factory: pytest.TempPathFactory) -> Package:
    store = Store(str(tmp_path_factory.mktemp("package")))
    fields = {f: getattr(made.config, f) for f in made.config.__dataclass_fields__}
    setting = made.evaluate(predictions(made)).setting
    weights = made.model.state_dict()
    Package(trainable="mm_reid", config=fields, setting=setting, facts={}, origin={}, weights=weights).write(store)
    return Package.read(store)


def test_a_package_answers_as_the_evaluation_does(package: Package, made: mm_reid.Task):
    rows = mm_reid.example(made.data, made.config)
    assert set(rows) == {"gallery", "nir", "sk", "cp", "text"}
    answers = mm_reid.serve(package)
    found = answers.predict(json.loads(json.dumps(rows)))
    assert sorted(found["order"][0]) == [0, 1, 2]
    assert found["score"][0] == sorted(found["score"][0], reverse=True)
    # the same person, gallery and query, through the evaluation's path
    asked = made.questions("test")
    predict, plan = made.predictor(), made.plan("test", 0, 0)
    with torch.no_grad():
        feature = predict(made.read(plan, made.data.store))["feature"]
    encoded = evaluation.Encoded(made.model, asked, feature)
    mix, rest = evaluation.parted(package.setting)
    retrieval = encoded.retrievals(mix)[1, 2, 3, 4]
    shown = [int(np.flatnonzero(asked.identity_N[asked.gallery] == i)[0]) for i in (20, 21, 22)]
    query, gallery = (np.asarray(x["all"]) for x in (retrieval.features.query, retrieval.features.gallery))
    assert (rest["k1"], rest["qe_k"]) == (0, 0)
    np.testing.assert_allclose(np.sort(gallery[shown] @ query[0])[::-1], found["score"][0], atol=1e-5)


def test_an_answer_needs_something_to_go_by_and_any_one_thing_is_enough(package: Package, made: mm_reid.Task):
    answers, rows = mm_reid.serve(package), mm_reid.example(made.data, made.config)
    for name in ("nir", "sk", "cp", "text"):
        assert len(answers.predict({"gallery": rows["gallery"], name: rows[name]})["order"][0]) == 3
    with pytest.raises(InputError, match="at least one of nir, sk, cp, text, got none"):
        answers.predict({"gallery": rows["gallery"], "text": [" "], "nir": [None]})
    with pytest.raises(InputError, match="sk must be a PNG or JPEG file"):
        answers.predict({"gallery": rows["gallery"], "sk": [b"no picture"]})


def test_a_package_is_measured_on_data_with_other_people(package: Package):
    other = mm_reid.build_model(config(), identities=7)
    other.load_state_dict(dict(package.weights))
    assert other.classifier.weight.shape == (4, 16)


def test_captions_over_the_limit_are_cut_and_counted(made: mm_reid.Task):
    short, long = "a person in a red coat", "a person in a red coat " * 5
    assert cut_texts([short, long, long], 20) == 2
    tokens = tokenize([short, long], 20)
    assert tokens.shape == (2, 20)
    assert tokens[0].max() == tokens[1, -1] == tokens[1].max()  # both end
    found = made.examine("test", {"feature": np.eye(len(made.questions("test").identity_N), 16, dtype=np.float32)}, {})
    assert found["captions_cut"] == 0
    assert found["plain_map"] == found["map"]
