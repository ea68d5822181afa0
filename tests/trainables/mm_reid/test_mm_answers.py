"""The queries of mm_reid, how its answers are measured, and a package that answers."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
from refsweep.datasets.problems import InputError
from refsweep.datasets.stream import Arrays
from refsweep.tests.trainables.tools import Family, predicted
from refsweep.trainables.mm_reid import METRICS, Task, build_model
from refsweep.trainables.mm_reid import evaluate as evaluation
from refsweep.trainables.mm_reid import serve as serving
from refsweep.trainables.mm_reid.config import MODALITIES
from refsweep.trainables.mm_reid.data import cut_texts, tokenize
from refsweep.trainables.mm_reid.evaluate import COMBINATIONS, Mix, name_of
from refsweep.trainables.training.package import Package


@pytest.fixture(scope="module")
def family(family_of: Callable[[str], Family]) -> Family:
    return family_of("mm_reid")


@pytest.fixture(scope="module")
def task(family: Family) -> Task:
    made: Task = family.task()
    return made


@pytest.fixture(scope="module")
def predictions(task: Task) -> dict[str, Arrays]:
    return {split: predicted(task, split, task.data.store) for split in task.eval_splits}


def test_queries_are_all_fifteen_combinations_and_the_gallery_is_vis_alone(task: Task):
    samples = task.evaluation_set("validation")
    assert len(samples.queries) == len(COMBINATIONS) == 15
    assert {name_of(c) for c in COMBINATIONS} >= {"nir", "text", "nir+sk", "nir+sk+cp+text"}
    assert set(samples.modality_N[samples.gallery]) == {0}
    for combination, rows in samples.queries.items():
        assert rows.shape == (3 * 2, len(combination))  # three identities of two queries each
        assert (samples.modality_N[rows] == np.array(combination)).all()
        assert (samples.identity_N[rows] == samples.identity_N[rows[:, :1]]).all()


def test_the_protocol_knows_the_modalities_by_their_present_names(task: Task):
    """The published protocol script used names the data no longer has, and features of before the BNNeck."""
    assert set(task.data.samples("test").column("modality").to_pylist()) == set(MODALITIES)
    assert {"map_nir", "map_sk", "map_cp", "map_text"} <= set(METRICS)


def test_map_is_the_mean_over_combinations_and_sizes_are_means_of_theirs(task: Task, predictions: dict[str, Arrays]):
    figures = task.score_with("validation", predictions["validation"], {})
    each = {c: figures[f"map_{name_of(c)}"] for c in COMBINATIONS}
    assert figures["map"] == pytest.approx(np.mean(list(each.values())))
    for size in range(1, 5):
        assert figures[f"map_{size}"] == pytest.approx(np.mean([v for c, v in each.items() if len(c) == size]))


def test_a_mixture_is_the_weighted_mean_worked_out_by_hand():
    fused, single = np.array([[1.0, 0.0]], np.float32), np.array([[[0.0, 1.0], [1.0, 0.0]]], np.float32)
    # half fused, half the singles: nir weighs 1, text 3
    mixed = Mix(0.5, 3.0)(fused, single, (1, 4))
    expected = np.array([0.5 + 0.5 * 0.75, 0.5 * 0.25])
    np.testing.assert_allclose(mixed[0], expected / np.linalg.norm(expected), rtol=1e-6)
    assert Mix(0.5, 3.0)(fused, single[:, :1], (4,)) is fused


@pytest.fixture(scope="module")
def package(family: Family, task: Task, predictions: dict[str, Arrays]) -> Package:
    return family.package(task, task.evaluate(predictions).setting)


def test_a_package_answers_as_the_evaluation_does(package: Package, task: Task):
    rows = serving.example(task.data, task.config)
    assert set(rows) == {"gallery", "nir", "sk", "cp", "text"}
    answer = serving.serve(package).predict(json.loads(json.dumps(rows)))
    assert sorted(answer["order"][0]) == [0, 1, 2]
    assert answer["score"][0] == sorted(answer["score"][0], reverse=True)
    # the same person, gallery and query, through the evaluation's path
    samples = task.evaluation_set("test")
    encoded = evaluation.Encoded(task.model, samples, predicted(task, "test", task.data.store)["feature"])
    mix, rest = evaluation.parted(package.setting)
    retrieval = encoded.retrievals(mix)[1, 2, 3, 4]
    shown = [int(np.flatnonzero(samples.identity_N[samples.gallery] == i)[0]) for i in (20, 21, 22)]
    query, gallery = (np.asarray(x["all"]) for x in (retrieval.features.query, retrieval.features.gallery))
    assert (rest["k1"], rest["qe_k"]) == (0, 0)
    np.testing.assert_allclose(np.sort(gallery[shown] @ query[0])[::-1], answer["score"][0], atol=1e-5)


def test_an_answer_needs_something_to_go_by_and_any_one_thing_is_enough(package: Package, task: Task):
    served, rows = serving.serve(package), serving.example(task.data, task.config)
    for name in ("nir", "sk", "cp", "text"):
        assert len(served.predict({"gallery": rows["gallery"], name: rows[name]})["order"][0]) == 3
    with pytest.raises(InputError, match="at least one of nir, sk, cp, text, got none"):
        served.predict({"gallery": rows["gallery"], "text": [" "], "nir": [None]})
    with pytest.raises(InputError, match="sk must be a PNG or JPEG file"):
        served.predict({"gallery": rows["gallery"], "sk": [b"no picture"]})


def test_a_package_is_measured_on_data_with_other_people(family: Family, package: Package):
    other = build_model(family.config(), identities=7)
    other.load_state_dict(dict(package.weights))
    assert other.classifier.weight.shape == (4, 16)


def test_captions_over_the_limit_are_cut_and_counted(task: Task):
    short, long = "a person in a red coat", "a person in a red coat " * 5
    assert cut_texts([short, long, long], 20) == 2
    tokens = tokenize([short, long], 20)
    assert tokens.shape == (2, 20)
    assert tokens[0].max() == tokens[1, -1] == tokens[1].max()  # both end
    features = np.eye(len(task.evaluation_set("test").identity_N), 16, dtype=np.float32)
    figures = task.score_with("test", {"feature": features}, {})
    assert figures["captions_cut"] == 0
    assert figures["plain_map"] == figures["map"]
