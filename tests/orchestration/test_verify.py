"""`sweep verify` says every difference between what a sweep has left, and makes a lost ledger again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from refsweep.datasets.problems import InputError
from refsweep.orchestration.adopt import Places, adopt
from refsweep.orchestration.execution.inline import InlineBackend
from refsweep.orchestration.ledger.ledger import Ledger
from refsweep.orchestration.restore import LOST
from refsweep.orchestration.spec.schema import SweepSpec
from refsweep.orchestration.sweep import find_sweep, open_sweep
from refsweep.orchestration.tracking.client import make_client
from refsweep.orchestration.tracking.projector import STATE
from refsweep.orchestration.tracking.runs import TRIAL
from refsweep.orchestration.verify import Verified, verify
from refsweep.tests.help import facts
from refsweep.tests.orchestration.test_identity import run, runs_in, spec_of, url
from refsweep.trainables.training.sealed import seal

SEARCH = {"trials": 3, "sampler": "tpe", "pruner": "none", "startup": 2}


def whole(storage: Path, **parts: Any) -> SweepSpec:
    return spec_of(storage, search=SEARCH, fixed={"epochs": 2, "noise": 1.0}, **parts)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished sweep with its MLflow."""
    folder = tmp_path_factory.mktemp("made") / "out"
    run(whole(folder, tracking=None))
    return folder


@pytest.fixture
def out(made: Path, tmp_path: Path) -> Path:
    """The same at a place of its own, which a test may break."""
    folder = Path(shutil.copytree(made, tmp_path / "out"))
    adopt("s", Places(ledger=url(folder), storage=str(folder)))
    return folder


def found(folder: Path, *, repair: bool = False) -> Verified:
    return verify("s", url(folder), str(folder), repair=repair)


def said(verified: Verified) -> list[str]:
    return [f"{d.where}: {d.what}" for d in verified.differences]


def edit(path: Path, change: Callable[[Any], Any]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_bytes(seal(content) if path.name == "manifest.json" else json.dumps(content).encode())


def test_a_sweep_that_nothing_happened_to_has_no_differences(out: Path):
    assert said(found(out)) == []


def test_every_difference_is_said_and_what_follows_from_the_rest_is_mended(out: Path):
    edit(out / "s/0/epoch-0001.1/manifest.json", lambda m: m["history"][0]["metrics"].update(loss=-999.0))
    edit(out / "s/0/end.json", lambda m: m.update(state="FAIL"))
    (out / "s/1/epoch-0001.1/model.safetensors").write_bytes(b"x")
    shutil.rmtree(out / "s/2/epoch-0002.1")
    (out / "s/2/end.json").unlink()
    (out / "s/7").mkdir()
    (out / "s/sweep.json").unlink()
    client = make_client(f"sqlite:///{out}/mlflow.db")
    runs = {r.data.tags.get(TRIAL): r.info.run_id for r in runs_in(f"sqlite:///{out}/mlflow.db")}
    client.delete_run(runs["s/1"])
    client.set_tag(runs["s/0"], STATE, "FAIL")
    lines = said(found(out))
    expected = [
        "sweep.json is missing",
        "trial 0: checkpoint epoch-0001.1: loss of epoch 1 is -999, in the ledger",
        "trial 0: end.json says otherwise than the ledger",
        "trial 1: checkpoint epoch-0001.1 is damaged",
        "trial 2: its last checkpoint, epoch-0002, is missing",
        "trial 2: end.json is missing",
        "trial 7: it has a folder, and the ledger knows no such trial",
        "mlflow: trial 0: it is FAIL in MLflow, COMPLETE in the ledger",
        "mlflow: trial 1: its run is missing",
    ]
    for part in expected:
        assert any(part in line for line in lines), (part, lines)
    left = found(out, repair=True)
    assert {d.repair for d in left.differences} == {None}
    assert "sweep.json was written" in left.repaired
    assert not any("mlflow: trial 1" in line or "end.json is missing" in line for line in said(left))


@pytest.mark.parametrize("key", ["sweep_id", "term", "data"])
def test_a_manifest_of_another_sweep_a_later_driver_or_other_data_is_said(key: str, out: Path):
    wrong = {"sweep_id": "another", "term": 99, "data": "beef"}[key]
    edit(out / "s/1/epoch-0001.1/manifest.json", lambda m: m.update({key: wrong}))
    (line,) = said(found(out))
    assert line.startswith("storage: trial 1: checkpoint epoch-0001.1: ")
    assert str(wrong) in line


def test_a_ledger_that_is_lost_is_made_again(out: Path):
    before = Ledger.open(url(out), "s")
    wanted, notes, record = facts(before), [t.user_attrs for t in before.trials], before.record
    times = [(t.datetime_start, t.datetime_complete) for t in before.trials]
    before.close()
    for path in out.glob("ledger.db*"):
        path.unlink()
    with pytest.raises(InputError, match=r"verify s --repair"):
        open_sweep(whole(out, tracking=None)).run(InlineBackend())
    assert [(d.where, d.repair) for d in found(out).differences] == [("ledger", "makes it again from the storage")]
    assert not (out / "ledger.db").exists(), "looking makes nothing"
    repaired = found(out, repair=True)
    assert repaired.differences == []
    after = Ledger.open(url(out), "s")
    assert facts(after) == wanted
    assert [t.user_attrs for t in after.trials] == notes
    assert [(t.datetime_start, t.datetime_complete) for t in after.trials] == times
    assert (after.record.id, after.record.spec, after.record.run_ids) == (record.id, record.spec, record.run_ids)
    assert after.record.term > record.term
    after.close()
    assert len(runs_in(f"sqlite:///{out}/mlflow.db")) == 4
    with find_sweep(url(out), "s") as sweep:
        sweep.change(["search.trials=4"])
        assert sweep.run(InlineBackend()).state == "finished"


def test_a_trial_that_was_running_when_the_ledger_was_lost_is_continued(tmp_path: Path):
    undisturbed = whole(tmp_path / "whole")
    run(undisturbed)
    ledger = Ledger.open(undisturbed.ledger_url, "s")
    out = tmp_path / "out"
    spec = whole(out)
    run(spec)
    (out / "s/2/end.json").unlink()  # the third was in its second epoch
    shutil.rmtree(out / "s/2/epoch-0002.1")
    for path in out.glob("ledger.db*"):
        path.unlink()
    repaired = found(out, repair=True)
    assert repaired.repaired[1:] == [
        "trial 0: COMPLETE, from end.json",
        "trial 1: COMPLETE, from end.json",
        "trial 2: RUNNING, continues from epoch-0001.1",
    ]
    assert run(spec, resuming=True).state == "finished"
    again = Ledger.open(spec.ledger_url, "s")
    assert facts(again) == facts(ledger)
    assert not (out / "s/2/epoch-0001.2").exists(), "what was trained is not trained again"
    for opened in (ledger, again):
        opened.close()


def test_a_folder_of_another_ledger_is_not_taken_for_a_lost_one(out: Path, tmp_path: Path):
    with pytest.raises(InputError, match=r"is of another ledger: ledger sqlite"):
        verify("s", f"sqlite:///{tmp_path}/other.db", str(out), repair=True)
    with pytest.raises(InputError, match=r"no ledger at .*; .*/s holds no sweep.json either"):
        verify("s", f"sqlite:///{tmp_path}/other.db", str(tmp_path), repair=True)
    assert not (tmp_path / "other.db").exists()


def test_storage_that_is_lost_for_good_is_accepted_by_a_repair(tmp_path: Path):
    spec = whole(tmp_path / "out", ledger=f"sqlite:///{tmp_path}/ledger.db")
    run(spec)
    shutil.rmtree(tmp_path / "out")
    with pytest.raises(InputError, match=r"verify s --repair"):
        run(spec)
    left = verify("s", spec.ledger_url, spec.storage, repair=True)
    assert all("missing" in line for line in said(left))
    assert run(spec).state == "finished"


def test_a_retry_and_a_trial_that_had_left_nothing_come_back_as_such(out: Path):
    (out / "s/4").mkdir()  # a retry of the first trial, as it begins; the trial before it had finished no epoch
    shutil.copytree(out / "s/0/epoch-0001.1", out / "s/4/epoch-0001.0")
    for path in out.glob("ledger.db*"):
        path.unlink()
    assert found(out, repair=True).repaired[4:6] == [
        f"trial 3: FAIL, {LOST}",
        "trial 4: RUNNING, continues from epoch-0001.0",
    ]
    ledger = Ledger.open(url(out), "s")
    assert (ledger.trial_record(4).retry_of, ledger.trial_record(4).attempt) == (0, 1)
    assert ledger.trials[4].params == ledger.trials[0].params
    assert ledger.searched() == 4, "a retry does not count"
    ledger.close()
