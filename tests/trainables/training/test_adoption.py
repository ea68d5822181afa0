"""A checkpoint of another sweep, other data or another Config is not gone on from; other code is said."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from refsweep.datasets.problems import InputError
from refsweep.datasets.storage.store import Store
from refsweep.trainables.toy import task as toy
from refsweep.trainables.training.adoption import codes, refuse_foreign
from refsweep.trainables.training.checkpoints import Checkpoint, Checkpoints, Name
from refsweep.trainables.training.loop import Training

OURS = {"sweep_id": "mine", "data": "f00d", "config": "c0", "code": "new"}


def written(**manifest: Any) -> Checkpoint:
    return Checkpoint(Store("/nowhere"), Name(1, 2), manifest)


@pytest.mark.parametrize(
    ("manifest", "why"),
    [
        ({**OURS, "sweep_id": "theirs"}, "of another sweep of this name: its id is theirs, this one's is mine"),
        ({**OURS, "data": "beef"}, "trained on other data: its fingerprint is beef, now it is f00d"),
        ({**OURS, "config": "c1"}, "another Config"),
        ({**OURS, "sweep_id": None, "data": "beef"}, "other data"),  # of a version without ids
    ],
)
def test_what_is_not_ours_is_refused(manifest: dict[str, Any], why: str):
    with pytest.raises(InputError, match=why):
        refuse_foreign(written(**manifest), OURS)


@pytest.mark.parametrize(
    "manifest", [OURS, {"config": "c0"}, {"config": "c0", "data": "f00d"}, {**OURS, "sweep_id": "before"}]
)
def test_what_is_ours_or_says_nothing_is_taken(manifest: dict[str, Any]):
    assert refuse_foreign(written(**manifest), OURS, ["before"]) is None


def test_other_code_is_said_and_noted(caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING):
        assert codes(written(**OURS), OURS) == ["new"]
        assert codes(written(config="c0"), OURS) == ["new"]
        assert caplog.text == ""
        assert codes(written(**{**OURS, "code": "old"}), OURS) == ["old", "new"]
    assert "another version of the code (old) than the one that goes on from it (new)" in caplog.text
    assert codes(written(**{**OURS, "code": "b", "codes": ["a", "b"]}), OURS) == ["a", "b", "new"]


def train(folder: Path, epochs: int, **provenance: str) -> None:
    config = toy.Config(epochs=2)
    training = Training(lambda: toy.Task(config), config, None, Checkpoints(Store(str(folder))), provenance=provenance)
    training.resume()
    for result in training.run():
        if result.epoch == epochs:
            return


def test_a_training_looks_before_it_goes_on_and_its_manifests_name_all_code(tmp_path: Path):
    train(tmp_path, 1, sweep_id="mine", data="f00d", code="old")
    with pytest.raises(InputError, match=r"other data"):
        train(tmp_path, 2, sweep_id="mine", data="beef", code="old")
    with pytest.raises(InputError, match=r"another sweep"):
        train(tmp_path, 2, sweep_id="theirs", data="f00d", code="old")
    train(tmp_path, 2, sweep_id="mine", data="f00d", code="new")
    manifest = json.loads((tmp_path / "epoch-0002.1" / "manifest.json").read_text())
    assert (manifest["code"], manifest["codes"]) == ("new", ["old", "new"])
