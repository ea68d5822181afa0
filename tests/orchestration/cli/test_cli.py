"""What commands print and exit with: 0 done, 1 the work failed, 2 bad input with what is wrong and where."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from refsweep.datasets.discovery import made_kinds
from refsweep.orchestration.cli import main as cli
from refsweep.orchestration.execution import ray_start
from refsweep.orchestration.ledger.ledger import Ledger
from refsweep.orchestration.spec.read import make_spec, settle
from refsweep.trainables import discovery

Refsweep = Callable[..., tuple[int, str, str]]
TOY: dict[str, Any] = {
    "name": "s",
    "trainable": "toy",
    "data": "none",
    "objective": {"metric": "loss", "mode": "min"},
    "search": {"trials": 1, "pruner": "none"},
}
IKUN: dict[str, Any] = {
    **TOY,
    "trainable": "ikun",
    "objective": {"metric": "hota", "mode": "max"},
    "fixed": {"tower": "conv-tiny", "weights": None, "crop_px": 16, "frame_px": 32, "feature_dim": 16},
}


@pytest.fixture
def refsweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Refsweep:
    """The command line in this process and a folder of its own; Ray must not be needed."""

    @contextlib.contextmanager
    def no_ray(_: object = None) -> Iterator[Callable[[], None]]:
        def connected() -> None:
            raise AssertionError("bad input must be found before anything starts")

        yield connected

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["refsweep", *map(str, words)])
        code = cli.run_command()
        out, err = capsys.readouterr()
        return code, out, err

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ray_start, "ray_in_background", no_ray)
    return run


def write(spec: dict[str, Any]) -> str:
    Path("spec.yaml").write_text(yaml.safe_dump(spec))
    return "spec.yaml"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nonsense": 1}, "nonsense: unknown key"),
        ({"search": {"trials": "many"}}, "search.trials: .*integer, got 'many'"),
        ({"trainable": "gpt"}, f"trainable must be one of {', '.join(discovery.names())}, got 'gpt'"),
        ({"ledger": "postgresql://me:secret@db/s"}, "ledger: must not contain a password: use PGPASSFILE"),
        (
            {"objective": [TOY["objective"], {"metric": "height", "mode": "max"}], "search": {"pruner": "asha"}},
            "search.pruner: must be none with several objectives, got asha",
        ),
        ({"trainable": "ikun", "objective": {"metric": "hota", "mode": "max"}}, "data: ikun needs data, got none"),
        ({"data": "made:films"}, f"after made: must be one of {', '.join(made_kinds())}, got 'films'"),
        ({"data": "made:refer-kitti?films=3"}, "takes videos, frames, width, expressions and seed, got films=3"),
        ({"data": "made:orbench?videos=3"}, "takes identities, images, captions, .* and seed, got videos=3"),
        ({"data": "made:cuhk-pedes?changed=often"}, "takes .*, changed, .*, got changed=often"),
        ({"data": "made:cuhk-pedes?identities=3"}, "identities must be >= 10, got 3"),
        ({"fixed": {"x": 7}}, "fixed: x must be in -5..5, got 7"),
    ],
)
def test_a_bad_spec_is_refused(change: dict[str, Any], message: str, refsweep: Refsweep):
    code, out, err = refsweep("sweep", "run", write({**TOY, **change}))
    assert code == 2
    assert out == ""
    assert re.search(message, err), err
    assert "secret" not in err
    assert not Path("refsweep-out/ledger.db").exists()


def remove_a_frame(root: Path) -> None:
    sorted(root.rglob("*.png"))[5].unlink()


def truncate_a_frame(root: Path) -> None:
    for frame in root.rglob("000000.png"):
        frame.write_bytes(frame.read_bytes()[:400])


def labels_of(root: Path) -> tuple[dict[str, Any], str, str]:
    labels = json.loads((root / "Refer-KITTI_labels.json").read_text())
    video = json.loads((root / "splits.json").read_text())["train"][0]
    return labels, video, next(iter(labels[video]))


def label_a_frame_that_is_not_there(root: Path) -> None:
    labels, video, identity = labels_of(root)
    labels[video][identity]["999"] = next(iter(labels[video][identity].values()))
    (root / "Refer-KITTI_labels.json").write_text(json.dumps(labels))


def put_a_box_outside(root: Path) -> None:
    labels, video, identity = labels_of(root)
    next(iter(labels[video][identity].values()))["bbox"] = [0.9, 0.1, 0.4, 0.1]
    (root / "Refer-KITTI_labels.json").write_text(json.dumps(labels))


def double_an_id(root: Path) -> None:
    path = sorted((root / "expression").rglob("*.json"))[0]
    path.write_text('{"label": {"3": [1], "3": [2]}}')


def leave_the_folder(root: Path) -> None:
    splits = json.loads((root / "splits.json").read_text())
    (root / "splits.json").write_text(json.dumps({**splits, "train": ["../../../etc"]}))


def say_nothing(root: Path) -> None:
    path = sorted((root / "expression").rglob("*.json"))[0]
    path.with_name("-.json").write_text(path.read_text())


def mean_nothing(root: Path) -> None:
    for path in (root / "expression").rglob("*.json"):
        path.write_text('{"label": {}}')


FAULTS: list[tuple[Callable[[Path], None], str]] = [
    (remove_a_frame, r"000005\.png: frame is missing"),
    (truncate_a_frame, r"000000\.png: frame won't decode"),
    (label_a_frame_that_is_not_there, "/999: label without a frame"),
    (put_a_box_outside, "box outside the frame"),
    (double_an_id, "duplicate ids: key '3' stands twice"),
    (leave_the_folder, "must stay inside"),
    (say_nothing, "empty expression"),
    (mean_nothing, "no positive example"),
]


@pytest.mark.parametrize(("fault", "message"), FAULTS, ids=[f[0].__name__ for f in FAULTS])
def test_bad_data_is_refused_by_check_train_and_sweep_alike(
    fault: Callable[[Path], None], message: str, made_copy: Path, refsweep: Refsweep
):
    fault(made_copy)
    small = [f"--set={k}={json.dumps(v)}" for k, v in IKUN["fixed"].items()]
    commands: list[list[object]] = [
        ["data", "check", made_copy],
        ["train", "ikun", "--data", made_copy, *small],
        ["sweep", "run", write({**IKUN, "data": str(made_copy)})],
    ]
    for command in commands:
        code, out, err = refsweep(*command)
        assert code == 2, command
        assert re.search(message, out + err), command


@pytest.mark.parametrize(
    "command",
    [
        ["train", "ikun", "--data", "nowhere"],
        ["train", "ikun", "--data", "none"],
        ["train", "toy", "--data", "none", "--set", "x=9"],
        ["train", "toy", "--data", "none", "--set", "speed=9"],
        ["train", "toy", "--data", "none", "--device", "tpu"],
        ["data", "make", "films", "out"],
        ["data", "make", "cuhk-pedes", "out", "--videos", "6"],
        ["data", "make", "orbench", "out", "--kitti-labels", "labels"],
        ["data", "make", "orbench", "out", "--changed", "2"],
        ["data", "make", "refer-kitti", "out", "--kitti-labels", "nowhere"],
        ["data", "pack", "nowhere", "out"],
        ["data", "pack", "nowhere", "out", "--frame-px", "0"],
        ["data", "pack", "nowhere", "out", "--shard-mb", "0"],
        ["sweep", "run", "nowhere.yaml"],
        ["sweep", "status", "s"],
        ["sweep", "resume", "s"],
        ["sweep", "stop", "s"],
        ["sweep", "sync", "s"],
        ["sweep", "list", "--storage", "s3://bucket"],
        ["model", "show", "toy"],
        ["model", "promote", "s"],
        ["model", "import", "ikun", "nowhere.pth", "--out", "model"],
        ["model", "evaluate", "./nowhere", "--data", "none"],
        ["space", "gpt"],
        ["sweep", "juggle"],
        ["sweep", "run"],
    ],
    ids=" ".join,
)
def test_what_is_not_there_or_not_known_is_bad_input(command: list[str], refsweep: Refsweep):
    code, out, err = refsweep(*command)
    assert code == 2, err
    assert out == ""
    assert err.strip()
    assert "Traceback" not in err


def test_json_is_one_object_on_stdout_and_nothing_else(refsweep: Refsweep, made: Path):
    for command in (
        ["space", "ikun"],
        ["data", "check", made],
        ["train", "toy", "--data", "none", "--set", "epochs=2"],
    ):
        code, out, _ = refsweep(*command, "--json")
        assert code == 0
        assert isinstance(json.loads(out), dict)
        assert out.count("\n") == 1


def test_made_data_is_sound(refsweep: Refsweep):
    words = ["--videos", "6", "--frames", "16", "--width", "208", "--expressions", "6", "--seed", "3"]
    code, out, _ = refsweep("data", "make", "refer-kitti", "made", *words, "--json")
    assert code == 0
    assert json.loads(out)["frames"] == 6 * 16
    assert refsweep("data", "check", "made")[0] == 0
    code, _, err = refsweep("data", "make", "refer-kitti", "made")
    assert code == 2
    assert "made" in err


@pytest.mark.parametrize(("kind", "images"), [("cuhk-pedes", 20), ("orbench", 80)])
def test_made_people_are_sound(kind: str, images: int, refsweep: Refsweep):
    words = ["--identities", "10", "--images", "2", "--changed", "0.5"]
    code, out, _ = refsweep("data", "make", kind, "people", *words, "--json")
    assert code == 0
    made = json.loads(out)
    assert made["identities"] == 10
    code, out, _ = refsweep("data", "check", "people", "--json")
    assert code == 0
    checked = json.loads(out)
    assert checked["layout"] == kind
    counted = ("images",) if kind == "cuhk-pedes" else ("vis", "nir", "sk", "cp")
    assert sum(checked["counts"][name] for name in counted) == images
    picture = sorted(Path("people").rglob("*.jpg"))[3]
    picture.write_bytes(picture.read_bytes()[:300])
    code, out, _ = refsweep("data", "check", "people")
    assert code == 2
    assert f"{picture.relative_to('people')}: image won't decode" in out
    code, _, err = refsweep("data", "make", kind, "people")
    assert code == 2
    assert "must be empty or new" in err


def test_data_of_no_known_layout_is_bad_input(refsweep: Refsweep):
    Path("else.json").write_text("[]")
    code, out, _ = refsweep("data", "check", ".")
    assert code == 2
    assert re.search(
        "no data set of a known layout here: .*reid_raw.json.*vis, nir, sk, cp.*expression/", " ".join(out.split())
    )


def test_a_pack_is_checked_and_trained_on_like_its_source(refsweep: Refsweep, made: Path):
    code, out, _ = refsweep("data", "pack", made, "packed", "--frame-px", "104", "--json")
    assert code == 0
    assert json.loads(out)["frames"] == 144
    checked = [json.loads(refsweep("data", "check", uri, "--json")[1]) for uri in (made, "packed")]
    assert checked[0]["counts"] == checked[1]["counts"]
    small = [f"--set={k}={json.dumps(v)}" for k, v in {**IKUN["fixed"], "epochs": 1}.items()]
    code, out, _ = refsweep("train", "ikun", "--data", "packed", *small, "--json")
    assert code == 0
    assert json.loads(out)["final"]
    code, _, err = refsweep("data", "pack", made, "packed")
    assert code == 2
    assert "OUT must be empty" in err


def test_a_pack_of_a_frame_that_will_not_decode_is_bad_input(refsweep: Refsweep, made_copy: Path):
    frame = sorted(made_copy.rglob("*.png"))[0]
    frame.write_bytes(b"scrap")
    code, _, err = refsweep("data", "pack", made_copy, "packed")
    assert code == 2
    assert f"{frame}: frame won't decode" in err
    code, _, err = refsweep("data", "check", "packed")
    assert code == 2


def test_a_bucket_that_is_missing_or_closed_is_bad_input(refsweep: Refsweep, s3: str, monkeypatch: pytest.MonkeyPatch):
    commands: list[list[object]] = [
        ["data", "check", "s3://nowhere/x"],
        ["data", "pack", "s3://nowhere/x", "out"],
        ["train", "ikun", "--data", "s3://nowhere/x"],
    ]
    for command in commands:
        code, out, err = refsweep(*command)
        assert code == 2, command
        assert "bucket s3://nowhere does not exist" in out + err
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    code, out, _ = refsweep("data", "check", f"{s3}/x")
    assert code == 2
    assert re.search("access to s3://bucket/x is denied", out)


def test_training_again_goes_on_from_its_checkpoint(refsweep: Refsweep):
    words = ["train", "toy", "--data", "none", "--set", "epochs=3", "--json"]
    first, second = refsweep(*words), refsweep(*words)
    assert "going on from" not in first[2]
    assert "going on from" in second[2]
    assert json.loads(first[1])["metrics"] == json.loads(second[1])["metrics"]


def test_a_training_that_goes_wrong_is_no_bad_input(refsweep: Refsweep):
    code, _, err = refsweep("train", "toy", "--data", "none", "--set", "nan_at_epoch=2")
    assert code == 1
    assert "the loss is nan in epoch 2" in err


def test_the_status_of_a_sweep_has_the_documented_fields(refsweep: Refsweep, tmp_path: Path):
    spec = settle(make_spec(TOY))
    ledger = Ledger.create(spec.ledger_url, "s", ["min"], spec.as_json())
    ledger.close()
    code, out, _ = refsweep("sweep", "status", "s", "--json")
    assert code == 0
    found = json.loads(out)
    budget = found.pop("budget")
    assert found == {"name": "s", "state": "stopped", "objective": TOY["objective"], "trials": [], "best": None}
    assert {"cpu_hours", "gpu_hours", "wall_hours", "limits", "forecast"} <= budget.keys()
    assert json.loads(refsweep("sweep", "list", "--json")[1])["sweeps"][0]["name"] == "s"
    code, _, err = refsweep("sweep", "status", "other")
    assert code == 2
    assert "no sweep 'other'" in err
    assert "there are: s" in err


def test_help_loads_neither_torch_nor_ray():
    code = "import sys; sys.argv = ['refsweep', '--help']\nfrom refsweep.orchestration.cli import main\n"
    code += "assert main.run_command() == 0\nassert not {'torch', 'ray', 'mlflow', 'optuna'} & set(sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert "sweep" in found.stdout
