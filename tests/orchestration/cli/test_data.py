"""`refsweep data`: kinds and fields come from the recipes; check and pack know every layout."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from refsweep.datasets import discovery
from refsweep.datasets.recipes import fields_of
from refsweep.datasets.storage.store import Store
from refsweep.orchestration.cli import main as cli
from refsweep.trainables.ikun.data import check_data

Refsweep = Callable[..., tuple[int, str, str]]


@pytest.fixture
def refsweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Refsweep:
    """The command line in this process, in a folder of its own."""

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["refsweep", *map(str, words)])
        code = cli.run_command()
        out, err = capsys.readouterr()
        return code, out, err

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return run


def test_help_lists_the_kinds(refsweep: Refsweep):
    code, out, _ = refsweep("data", "make", "--help")
    assert code == 0
    assert all(kind in out for kind in discovery.made_kinds())
    code, out, err = refsweep("data", "make")
    assert code == 2
    assert all(kind in out + err for kind in discovery.made_kinds())


@pytest.mark.parametrize("kind", discovery.made_kinds())
def test_help_of_a_kind_shows_its_fields_with_defaults(kind: str, refsweep: Refsweep):
    code, out, _ = refsweep("data", "make", kind, "--help")
    assert code == 0
    text = " ".join(re.sub("[│\n]", " ", out).split())
    for field in fields_of(discovery.maker(kind).Recipe):
        flag = f"--{field.name.replace('_', '-')}"
        assert flag in text
        assert field.help.split()[0] in text
        if field.is_number:
            assert re.search(rf"{flag} .*?\[default: {field.default}\]", text), flag


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["refer-kitti", "out", "--identities", "3"],
            "refer-kitti takes --videos, --frames, --width, --expressions, --seed, --kitti-labels and --kitti-tracks, "
            "got --identities",
        ),
        (["orbench", "--films=3", "out", "--kitti-labels", "x"], "orbench takes .* and --seed, got --films, --kitti-l"),
        (["films", "out"], f"kind must be one of {', '.join(discovery.made_kinds())}, got 'films'"),
        (["orbench", "out", "--seed", "x"], "Invalid value for '--seed'"),
        (["orbench"], "Missing argument 'OUT'"),
        (["orbench", "out", "--identities", "3"], "identities must be >= 10, got 3"),
        (["refer-kitti", "out", "--kitti-tracks", "x"], "kitti_tracks needs kitti_labels"),
    ],
)
def test_what_a_kind_does_not_take_is_refused(words: list[str], message: str, refsweep: Refsweep, tmp_path: Path):
    code, out, err = refsweep("data", "make", *words)
    assert (code, out) == (2, "")
    assert re.search(message, err), err
    assert not (tmp_path / "out").exists()


def test_car_tracks_lie_beside_the_labels_or_are_made(refsweep: Refsweep, shared: Path, tmp_path: Path):
    """Which tracks were used is in the answer: made ones differ from a tracker's. Of each video, 2 seconds."""
    kitti = shared / "data/kitti"
    for folder, name in (("label_02", "labels"), ("tracks/YOLOX-STRONG-SORT", "tracks/YOLOX-STRONG-SORT")):
        (tmp_path / name).mkdir(parents=True)
        for video in ("0003", "0012", "0010", "0013"):
            lines = (kitti / folder / f"{video}.txt").read_text().splitlines(keepends=True)
            (tmp_path / name / f"{video}.txt").write_text("".join(x for x in lines if int(x.split()[0]) < 20))

    def make(out: str, *words: str) -> str:
        code, answer, err = refsweep(
            "data", "make", "refer-kitti", out, "--width", "64", "--kitti-labels", "labels", *words, "--json"
        )
        assert code == 0, err
        return str(json.loads(answer)["tracks_of_cars"])

    assert make("a") == "tracks/YOLOX-STRONG-SORT"
    assert make("b", "--kitti-tracks", "none") == "made"
    (tmp_path / "tracks").rename(tmp_path / "elsewhere")
    assert make("c") == "made"
    assert make("d", "--kitti-tracks", "elsewhere/YOLOX-STRONG-SORT") == "elsewhere/YOLOX-STRONG-SORT"
    tracks = [(tmp_path / out / "tracks/0013/car/predict.txt").read_text() for out in "abcd"]
    assert tracks[0] == tracks[3] != tracks[1] == tracks[2]


def test_the_folder_of_tracks_is_an_option_where_there_are_tracks(refsweep: Refsweep, made_copy: Path):
    (made_copy / "tracks").rename(made_copy / "NeuralSORT")
    assert refsweep("data", "check", made_copy)[0] == 2
    assert refsweep("data", "check", made_copy, "--tracks", "NeuralSORT")[0] == 0
    assert refsweep("data", "make", "orbench", "people", "--identities", "10", "--images", "1")[0] == 0
    code, out, err = refsweep("data", "check", "people", "--tracks", "tracks")
    assert (code, out) == (2, "")
    assert "the check of orbench has no option tracks" in err


@pytest.mark.parametrize("kind", ["cuhk-pedes", "orbench"])
def test_people_are_packed_and_checked_like_their_source(kind: str, refsweep: Refsweep):
    assert refsweep("data", "make", kind, "people", "--identities", "10", "--images", "2")[0] == 0
    code, out, _ = refsweep("data", "pack", "people", "packed", "--json")
    assert code == 0
    assert json.loads(out)["frames"] == (20 if kind == "cuhk-pedes" else 80)
    answers = [json.loads(refsweep("data", "check", place, "--json")[1]) for place in ("people", "packed")]
    assert answers[0] == {**answers[1], "uri": "people"}
    assert answers[1]["layout"] == kind
    assert answers[1]["problems"] == []


def test_warnings_are_printed_and_are_no_reason_to_refuse(
    refsweep: Refsweep, made_copy: Path, caplog: pytest.LogCaptureFixture
):
    path = sorted((made_copy / "expression").rglob("*.json"))[0]
    content = json.loads(path.read_text())
    content["label"]["0"] = [12345]
    path.write_text(json.dumps(content))
    where = str(path.relative_to(made_copy))
    code, out, err = refsweep("data", "check", made_copy, "--json")
    found = json.loads(out)
    assert (code, err, found["problems"]) == (0, "", [])
    assert [warning["where"] for warning in found["warnings"]] == [where]
    assert found["counts"]["dangling_ids"] == 1
    code, out, _ = refsweep("data", "check", made_copy)
    assert code == 0
    assert f"warning: {where}: left out: objects [12345] have no box there: 1 times: 12345 in frame 0" in out
    caplog.clear()
    check_data(Store(str(made_copy)))  # before a training
    assert [where in line for line in caplog.messages] == [True]


def test_a_link_out_of_the_data_is_not_packed(refsweep: Refsweep, made_copy: Path, tmp_path: Path):
    (tmp_path / "secret.json").write_text('{"password": 1}')
    (made_copy / "notes.json").symlink_to(tmp_path / "secret.json")
    code, out, err = refsweep("data", "pack", made_copy, tmp_path / "packed")
    assert (code, out) == (2, "")
    assert "must stay inside" in err
    assert "Traceback" not in err
    assert not (tmp_path / "packed" / "notes.json").exists()
