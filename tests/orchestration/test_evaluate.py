"""Every family is measured on every split, and on data with gaps: nothing tracked, nobody to find, one frame."""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from refsweep.datasets.problems import DataError, InputError
from refsweep.datasets.storage.store import Store
from refsweep.orchestration.cli import main as cli
from refsweep.orchestration.evaluate import evaluate
from refsweep.orchestration.spec.data import prepare_data
from refsweep.orchestration.spec.read import make_spec
from refsweep.orchestration.track import track
from refsweep.orchestration.train import train_once
from refsweep.tests.trainables.tools import Family, case_of
from refsweep.trainables import discovery
from refsweep.trainables.ikun.truth import VideoTruth
from refsweep.trainables.metrics.tracking import trackeval_scores
from refsweep.trainables.training.package import Package

SPLITS = ("train", "calibration", "validation", "test")
CHOICES = "split must be one of train, calibration, validation, test, got 'dev'"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Family, Package]]:
    """A family with its tiny data and a package of a model with random weights, made once."""
    kept: dict[str, tuple[Family, Package]] = {}

    def make(name: str) -> tuple[Family, Package]:
        if name not in kept:
            family = Family(name=name, case=case_of(name), folder=tmp_path_factory.mktemp(name))
            if family.case.write_data is not None:
                family.case.write_data(family.folder)
            setting = {"a": 0.0, "tau": 10.0, "threshold": -1.0} if name == "ikun" else {}
            kept[name] = family, family.package(family.task(), setting)
        return kept[name]

    return make


@pytest.mark.parametrize("name", discovery.names())
def test_training_data_is_measured_by_an_evaluation_too(name: str, made: Callable[[str], tuple[Family, Package]]):
    family, package = made(name)
    figures = evaluate(package, family.uri, "train")
    assert set(family.module.METRICS) <= set(figures)
    task = family.module.Task(family.config(), family.open_data())
    before = task.plan("train", 0, 0)
    other = family.module.Task(family.config(), family.open_data())
    rows = other.evaluation_plan("train")
    assert rows.equals(other.evaluation_plan("train"))
    assert rows.schema == task.plan("validation", 0, 0).schema
    assert other.plan("train", 0, 0).equals(before), "an evaluation leaves training as it is"
    for split in SPLITS[1:]:
        assert other.evaluation_plan(split).equals(task.plan(split, 0, family.config().seed))


@pytest.mark.parametrize("name", discovery.names())
def test_a_split_that_does_not_exist_names_the_choices(name: str, made: Callable[[str], tuple[Family, Package]]):
    family, package = made(name)
    with pytest.raises(InputError, match=CHOICES):
        evaluate(package, family.uri, "dev")


# -- iKUN ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def scenes(made: Callable[[str], tuple[Family, Package]], tmp_path: Path) -> tuple[Path, Package, dict[str, Any]]:
    """A copy of made driving scenes, a package, and the splits."""
    family, package = made("ikun")
    folder = shutil.copytree(family.folder, tmp_path / "scenes")
    return folder, package, json.loads((folder / "splits.json").read_text())


def untrack(folder: Path, video: str) -> None:
    for category in ("car", "pedestrian"):
        (folder / "tracks" / video / category / "predict.txt").write_text("")


def keep_frames(folder: Path, video: str, count: int) -> None:
    """Leaves the first frames of a video."""
    for path in (folder / "KITTI" / "training" / "image_02" / video).iterdir():
        if int(path.stem) >= count:
            path.unlink()
    for path in (folder / "tracks" / video).rglob("predict.txt"):
        rows = [line for line in path.read_text().splitlines() if float(line.split(",")[0]) < count]
        path.write_text("".join(f"{row}\n" for row in rows))
    for path in (folder / "gt_template" / video).rglob("gt.txt"):
        rows = [line for line in path.read_text().splitlines() if float(line.split(",")[0]) < count]
        path.write_text("".join(f"{row}\n" for row in rows))
    labels = json.loads((folder / "Refer-KITTI_labels.json").read_text())
    labels[video] = {
        key: kept for key, of in labels[video].items() if (kept := {f: v for f, v in of.items() if int(f) < count})
    }
    (folder / "Refer-KITTI_labels.json").write_text(json.dumps(labels))


def sequences_by_hand(folder: Path, videos: list[str], config: Any) -> list[Any]:
    """Every tracked box of each expression beside its truth: what a threshold below all scores gives."""
    data = discovery.load("ikun").open_data(Store(str(folder)))
    truths = [VideoTruth.load(data, video, config) for video in videos]
    return [s for t in truths for s in t.sequences(np.ones(t.fits_PN.shape, bool))]


def test_a_video_in_which_nothing_was_tracked_counts_its_truths_as_misses(
    scenes: tuple[Path, Package, dict[str, Any]], made: Callable[[str], tuple[Family, Package]]
):
    folder, package, splits = scenes
    whole = evaluate(package, str(folder), "train")
    assert len(splits["train"]) > 1
    untrack(folder, splits["train"][0])
    figures = evaluate(package, str(folder), "train")
    config = made("ikun")[0].config()
    by_hand = trackeval_scores(sequences_by_hand(folder, splits["train"], config))
    assert 0 < figures["hota"] < whole["hota"]
    assert {name: figures[name] for name in by_hand} == pytest.approx(by_hand)
    untrack(folder, splits["train"][-1])
    for video in splits["train"]:
        untrack(folder, video)
    figures = evaluate(package, str(folder), "train")
    assert [figures[name] for name in ("hota", "deta", "assa", "recall", "idf1", "mota")] == [0] * 6
    assert math.isnan(figures["auc"]), "there is no window"


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("gap", ["nothing tracked", "one frame", "no truth", "no object", "no expression"])
def test_a_sweeps_evaluation_and_its_choice_take_any_gap(gap: str, scenes: tuple[Path, Package, dict[str, Any]]):
    folder, _, splits = scenes
    for split in ("calibration", "validation"):
        for video in splits[split]:
            fill(folder, video, gap)
    family = Family(name="ikun", case=case_of("ikun"), folder=folder)
    training = family.training(epochs=1, calibration_thresholds=3, calibration_a=(0.0, 2.0))
    (result,) = training.run()
    assert set(result.metrics) >= {"hota", "deta", "assa", "precision", "recall"}
    assert all(math.isfinite(result.metrics[name]) for name in ("hota", "deta", "assa", "precision", "recall"))
    assert result.metrics["hota"] == 0 or gap == "one frame"
    assert set(result.setting) == {"a", "tau", "threshold"}


def fill(folder: Path, video: str, gap: str) -> None:
    if gap == "nothing tracked":
        untrack(folder, video)
    elif gap == "one frame":
        keep_frames(folder, video, 1)
    elif gap == "no truth":
        for path in (folder / "gt_template" / video).rglob("gt.txt"):
            path.write_text("")
    elif gap == "no object":
        labels = json.loads((folder / "Refer-KITTI_labels.json").read_text())
        labels[video] = {}
        (folder / "Refer-KITTI_labels.json").write_text(json.dumps(labels))
        shutil.rmtree(folder / "gt_template" / video)
    else:
        shutil.rmtree(folder / "expression" / video)


def test_a_split_without_a_video_is_said_before_training(scenes: tuple[Path, Package, dict[str, Any]], tmp_path: Path):
    folder, package, splits = scenes
    (folder / "splits.json").write_text(json.dumps({**splits, "calibration": []}))
    with pytest.raises(DataError, match="split calibration has no video"):
        evaluate(package, str(folder), "calibration")
    family = Family(name="ikun", case=case_of("ikun"), folder=folder)
    with pytest.raises(DataError, match="split calibration has no video"):
        next(family.training().run())
    with pytest.raises(DataError, match="split calibration has no video"):
        train_once(
            "ikun", str(folder), str(tmp_path / "out"), [f"{k}={v}" for k, v in PLAIN_SETS.items()], "cpu", print
        )


PLAIN_SETS = {"tower": "conv-tiny", "weights": "null", "crop_px": 32, "frame_px": 32, "feature_dim": 16}


def test_an_example_is_of_a_video_in_which_something_was_tracked(scenes: tuple[Path, Package, dict[str, Any]]):
    folder, package, splits = scenes
    module = discovery.load("ikun")
    for video in splits["test"]:
        untrack(folder, video)
    config = Family(name="ikun", case=case_of("ikun"), folder=folder).config()
    rows = module.example(module.open_data(Store(str(folder))), config)
    assert len(module.serve(package).predict(rows)["score"]) == 1
    for video in (*splits["validation"], *splits["calibration"]):
        untrack(folder, video)
    with pytest.raises(InputError, match="has no video with tracks in tracks/ and an expression"):
        module.example(module.open_data(Store(str(folder))), config)


def test_tracks_of_another_folder_are_read_everywhere(
    scenes: tuple[Path, Package, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
):
    folder, package, splits = scenes
    video = splits["test"][0]
    here = evaluate(package, str(folder), "test")
    (folder / "tracks").rename(folder / "sort")
    with pytest.raises(DataError, match=r"tracks/.*: missing"):
        evaluate(package, str(folder), "test")
    assert evaluate(package, str(folder), "test", tracks="sort") == pytest.approx(here, nan_ok=True)
    expression = next((folder / "expression" / video).iterdir()).stem.replace("-", " ")
    followed = track(package, str(folder), video, [expression], tmp_path / "out.mp4", tracks="sort")
    assert followed["found"][0]["boxes"] > 0
    package.write(Store(str(tmp_path / "package")))
    words = ["model", "evaluate", f"{tmp_path}/package", "--data", str(folder), "--tracks", "sort", "--json"]
    monkeypatch.setattr(sys, "argv", ["refsweep", *words])
    assert cli.run_command() == 0
    assert json.loads(capsys.readouterr().out)["metrics"]["hota"] == pytest.approx(here["hota"])
    for wrong, message in (("../sort", "path must stay inside its folder"), ("none", r"none/.*: missing")):
        with pytest.raises(InputError, match=message):
            evaluate(package, str(folder), "test", tracks=wrong)
    places = {"data": str(folder), "storage": str(tmp_path / "out")}
    spec = make_spec({"name": "t", "trainable": "ikun", "objective": {"metric": "hota", "mode": "max"}, **places})
    with pytest.raises(DataError, match=r"tracks/.*: missing"):
        prepare_data(spec)
    uri, _ = prepare_data(spec.model_copy(update={"fixed": {"tracks": "sort"}}))
    assert uri == str(folder)


def test_a_model_without_tracks_says_which_have_them(made: Callable[[str], tuple[Family, Package]]):
    _, package = made("toy")
    with pytest.raises(InputError, match="tracks need a model that reads them: ikun, got toy"):
        evaluate(package, "none", "test", tracks="sort")


def test_a_video_without_tracks_is_followed_and_drawn(scenes: tuple[Path, Package, dict[str, Any]], tmp_path: Path):
    folder, package, splits = scenes
    untrack(folder, splits["test"][0])
    followed = track(package, str(folder), splits["test"][0], ["red car"], tmp_path / "out.mp4")
    assert followed["found"] == [{"expression": "red car", "boxes": 0, "tracks": 0, "frames": 0}]
    assert (tmp_path / "out.mp4").stat().st_size > 0


def test_weights_that_do_not_fit_are_one_sentence(made: Callable[[str], tuple[Family, Package]]):
    family, package = made("ikun")
    weights = {**package.weights, "img_fc.bias": torch.ones(3)}
    wrong = Package(
        **{f: getattr(package, f) for f in ("trainable", "config", "setting", "facts", "origin")}, weights=weights
    )
    with pytest.raises(InputError, match=r"weights of this ikun package do not fit its Config: .*img_fc\.bias"):
        evaluate(wrong, family.uri, "test")
