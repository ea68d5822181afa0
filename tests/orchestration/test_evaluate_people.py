"""Figures of people where galleries and queries have gaps: one picture, nobody to find, nothing to ask."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from refsweep.datasets.problems import DataError, InputError
from refsweep.datasets.storage.store import Store
from refsweep.orchestration.evaluate import evaluate
from refsweep.tests.trainables.mm_reid.case import write_people as write_modalities
from refsweep.tests.trainables.t2i_reid.case import write_people
from refsweep.tests.trainables.tools import Family, case_of
from refsweep.trainables import discovery
from refsweep.trainables.metrics.retrieval import RetrievalTruth
from refsweep.trainables.posthoc import reranking
from refsweep.trainables.posthoc.reranking import Features
from refsweep.trainables.posthoc.settings import Grid

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")


def family(name: str, folder: Path) -> Family:
    return Family(name=name, case=case_of(name), folder=folder)


def assert_percent(figures: Mapping[str, float]) -> None:
    assert all(0 <= value <= 100 for name, value in figures.items() if name.startswith(("rank", "map", "minp")))


# -- t2i_reid --------------------------------------------------------------------------------------------------------


def test_galleries_of_one_picture_are_ranked(tmp_path: Path):
    write_people(tmp_path, train=3, val=2, test=1, pictures=1)
    people = family("t2i_reid", tmp_path)
    (result,) = people.training(epochs=1, rerank_k1=(4, 20), expand_k=(3,)).run()
    assert result.metrics["map"] == result.metrics["rank1"] == 100, "there is nobody else"
    for split in ("train", "calibration", "validation", "test"):
        assert_percent(evaluate(people.package(people.task(), result.setting), people.uri, split))


def silence(folder: Path, split: str, caption: str) -> None:
    """Puts a caption in place of all of a published split."""
    path = next(path for path in folder.iterdir() if path.suffix == ".json")
    items = json.loads(path.read_text())
    for item in items:
        item["captions"] = [caption] if item["split"] == split else item["captions"]
    path.write_text(json.dumps(items))


def test_a_split_that_asks_nothing_is_said_before_training(tmp_path: Path):
    write_people(tmp_path, pictures=1)
    silence(tmp_path, "val", "  ")
    people = family("t2i_reid", tmp_path)
    with pytest.raises(
        DataError, match=r"split calibration has no caption: there is nothing to ask\n.*split validation"
    ):
        people.module.check_data(people.store)
    with pytest.raises(DataError, match="split calibration has no caption that says something of identity"):
        next(people.training().run())


def test_captions_that_are_silent_on_what_is_asked_are_said_before_training(tmp_path: Path):
    write_people(tmp_path, pictures=1)
    silence(tmp_path, "val", "A red shirt.")
    people = family("t2i_reid", tmp_path)
    training = people.training(query="identity")
    with pytest.raises(DataError, match="split calibration has no caption that says something of identity"):
        next(training.run())
    assert (training.epoch, training.batch) == (0, 0)


def test_a_test_split_without_captions_has_an_example_and_one_sentence(tmp_path: Path):
    write_people(tmp_path, pictures=1)
    silence(tmp_path, "test", "")
    people = family("t2i_reid", tmp_path)
    people.module.check_data(people.store)
    task = people.task()
    package = people.package(task, {})
    assert (
        len(people.module.serve(package).predict(people.module.example(people.open_data(), task.config))["order"]) == 1
    )
    with pytest.raises(DataError, match="split test has no caption"):
        evaluate(package, people.uri, "test")


# -- mm_reid ---------------------------------------------------------------------------------------------------------


def hide(folder: Path, modality: str, identity: int) -> None:
    """Takes an identity's pictures of a modality away; captions of vis pictures go with them."""
    shutil.rmtree(folder / modality / f"{identity:04d}")
    if modality == "vis":
        items = json.loads((folder / "text_annos.json").read_text())
        kept = [item for item in items if not item["file_path"].startswith(f"vis/{identity:04d}/")]
        (folder / "text_annos.json").write_text(json.dumps(kept))


def test_queries_without_a_right_answer_count_in_no_mean(tmp_path: Path):
    write_modalities(tmp_path)
    people = family("mm_reid", tmp_path)
    package = people.package(people.task(), {})
    hide(tmp_path / "test", "vis", 20)
    figures = evaluate(package, people.uri, "test")
    assert_percent(figures)
    assert math.isfinite(figures["map"])
    # sketches are left of somebody alone whom no photograph shows: their combinations are left out
    hide(tmp_path / "test", "sk", 21)
    hide(tmp_path / "test", "sk", 22)
    fewer = evaluate(package, people.uri, "test")
    assert {name for name in figures if "sk" in name}
    assert not {name for name in fewer if "sk" in name}
    assert fewer["map_nir"] == figures["map_nir"]
    assert "map_4" not in fewer


def test_an_objective_that_the_data_can_not_tell_is_said_before_training(tmp_path: Path):
    write_modalities(tmp_path)
    people = family("mm_reid", tmp_path)
    for identity in people.open_data().samples("validation").column("identity").unique().to_pylist():
        hide(tmp_path / "val", "cp", identity)
    task = people.task()
    assert task.unmeasured() == ["map_4", "map_cp"]
    figures = evaluate(people.package(task, {}), people.uri, "validation")
    assert set(people.module.METRICS) - set(figures) == {"map_4", "map_cp"}
    training = people.training(epochs=1)
    training.best = ("map_4", "max")
    with pytest.raises(InputError, match="map_4 can't be measured: the data has nothing of its kind to ask for"):
        next(training.run())
    training.best = ("map", "max")
    assert "map" in next(training.run()).metrics


def test_a_modality_without_a_picture_and_a_split_without_a_pair_are_said_before_training(tmp_path: Path):
    write_modalities(tmp_path)
    people = family("mm_reid", tmp_path)
    held = people.open_data().samples("calibration").column("identity").unique().to_pylist()
    for identity in held:
        hide(tmp_path / "val", "vis", identity)
    with pytest.raises(DataError, match="split calibration has no identity with vis and another modality"):
        people.module.check_data(people.store)
    training = people.training()
    with pytest.raises(DataError, match="split calibration needs vis and another modality of one identity, got 0 vis"):
        next(training.run())
    assert (training.epoch, training.batch) == (0, 0)
    shutil.rmtree(tmp_path / "val" / "sk")
    with pytest.raises(DataError, match="val/sk: modality folder is missing or empty"):
        people.module.check_data(people.store)


# -- both ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("queries", "gallery"), [(1, 1), (3, 1), (1, 3), (2, 2)])
def test_every_setting_ranks_the_smallest_galleries(queries: int, gallery: int):
    rng = np.random.default_rng(queries + gallery)
    query, rows = (
        x / np.linalg.norm(x, axis=1, keepdims=True) for x in map(rng.standard_normal, ((queries, 8), (gallery, 8)))
    )
    truth = RetrievalTruth(np.zeros(queries, int), np.zeros(gallery, int))
    figures = reranking.figures(Features.of(query, rows), truth, Grid().settings())
    assert figures == [100.0] * len(figures), "everybody is right"


def test_a_gallery_without_such_a_split_names_the_choices(tmp_path: Path):
    write_people(tmp_path, train=3, val=2, test=1, pictures=1)
    gallery = discovery.capability("t2i_reid", "gallery", "query")
    with pytest.raises(ValueError, match="split must be one of train, calibration, validation, test, got 'dev'"):
        gallery(Store(str(tmp_path)), "dev")
