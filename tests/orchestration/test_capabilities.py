"""What a model can do beside training: commands ask its module, and say which models can what one can't."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from refsweep.datasets.problems import InputError
from refsweep.datasets.storage.store import Store
from refsweep.orchestration.cli import main as cli
from refsweep.orchestration.query import open_gallery
from refsweep.orchestration.search.spaces import describe_fields, describe_space
from refsweep.orchestration.track import track
from refsweep.tests.trainables.ikun.test_ikun_reference import published_state
from refsweep.trainables import discovery
from refsweep.trainables.training.package import Package

Refsweep = Callable[..., tuple[int, str, str]]
TOY = Package(trainable="toy", config={}, setting={}, facts={}, origin={}, weights={})


@pytest.fixture
def refsweep(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Refsweep:
    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["refsweep", *map(str, words)])
        code = cli.run_command()
        out, err = capsys.readouterr()
        return code, out, err

    return run


def test_a_model_without_a_capability_is_refused_with_those_that_have_it(tmp_path: Path, refsweep: Refsweep):
    with pytest.raises(InputError, match="track needs a model that can track: ikun, got toy"):
        track(TOY, "none", "0005", ["cars"], tmp_path / "out.mp4")
    with pytest.raises(InputError, match="query needs a model that can query: mm_reid, t2i_reid, got toy"):
        open_gallery(TOY, str(tmp_path), "test")
    code, _, err = refsweep("model", "import", "toy", "model.pth", "--out", tmp_path / "out")
    assert code == 2
    assert "import needs a model that can import: ikun, got toy" in err


def test_a_published_checkpoint_is_imported_with_what_it_does_not_say(tmp_path: Path, refsweep: Refsweep):
    torch.save({"model": published_state()}, tmp_path / "ikun.pth")
    words = ("model", "import", "ikun", tmp_path / "ikun.pth", "--out", tmp_path / "out")
    code, out, _ = refsweep(*words, "--set", "text_heads=1", "--json")
    assert code == 0
    answer = json.loads(out)
    assert answer["config"].items() >= {"kum_mode": "cascade", "crop_px": 64, "feature_dim": 32}.items()
    assert "gamma" not in answer["config"], "a default"
    assert Package.read(Store(str(tmp_path / "out"))).trainable == answer["trainable"] == "ikun"
    code, _, err = refsweep(*words, "--set", "heads=1")
    assert code == 2
    assert "heads is no field of ikun's ImportOptions: kum_mode, text_heads" in err


def test_a_checkpoint_that_stands_for_millions_of_entries_is_refused(tmp_path: Path, refsweep: Refsweep):
    content: dict[str, Any] = {}
    for _ in range(22):
        content = {"a": content, "b": content}
    torch.save({"model": content}, tmp_path / "bomb.pth")
    code, out, err = refsweep("model", "import", "ikun", tmp_path / "bomb.pth", "--out", tmp_path / "out")
    assert (code, out) == (2, "")
    assert "bomb.pth is refused: it holds more than 200,000 entries" in " ".join(err.split())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", discovery.names())
def test_a_described_space_and_what_it_leaves_out_are_the_whole_config(name: str):
    parameters, fields = describe_space(name), describe_fields(name)
    config = discovery.load_config(name)
    known = set(config.__dataclass_fields__)
    assert {row["name"] for row in fields} | ({row["name"] for row in parameters} & known) == known
    assert not {row["name"] for row in fields} & {row["name"] for row in parameters}
    assert all((row["allowed"] != "") == (row["name"] in known) for row in (*parameters, *fields))


def test_bounds_choices_and_types_are_those_of_the_config(refsweep: Refsweep):
    code, out, _ = refsweep("space", "ikun", "--json")
    assert code == 0
    answer = json.loads(out)
    parameters = {row["name"]: row for row in answer["parameters"]}
    fields = {row["name"]: row for row in answer["fields"]}
    assert parameters["gamma"]["allowed"] == "0 .. 10"
    assert parameters["gamma"]["range"] == "0 .. 4"
    assert parameters["kum_mode"]["allowed"] == "cascade | cross_correlation | text_first | null"
    assert parameters["tower_lr_ratio"]["allowed"] == ""
    assert parameters["weights"]["allowed"] == "text or null"
    assert fields["crop_scale"] == {"name": "crop_scale", "default": 0.08, "allowed": "0.01 .. 1", "set by": ""}
    assert fields["tower_lr"]["set by"] == "the space"
    assert refsweep("space", "mm_reid")[1].count("clip_quantile") == 1


def test_a_parameter_with_other_ranges_in_other_branches_shows_them_all():
    temperature = next(row for row in describe_space("mm_reid") if row["name"] == "temperature")
    assert set(temperature["range"].split(" or ")) == {"0.15 .. 0.5 (log)", "0.01 .. 0.2 (log)"}
