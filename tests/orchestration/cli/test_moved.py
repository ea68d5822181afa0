"""`sweep adopt` and `sweep verify` as commands: what they print, what they exit with, who is refused before them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from refsweep.orchestration.cli import main as cli
from refsweep.tests.orchestration.test_identity import record_of, run, spec_of, url

Refsweep = Callable[..., tuple[int, str, str]]


@pytest.fixture
def refsweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Refsweep:
    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["refsweep", *words])
        code = cli.run_command()
        out, err = capsys.readouterr()
        return code, out, err

    monkeypatch.chdir(tmp_path)
    return call


def test_a_moved_sweep_is_refused_then_adopted_then_verified(tmp_path: Path, refsweep: Refsweep):
    run(spec_of(tmp_path / "a"))
    (tmp_path / "a").rename(tmp_path / "refsweep-out")
    for words in (["resume", "s", "--plain"], ["sync", "s"], ["stop", "s"], ["verify", "s"]):
        code, _, err = refsweep("sweep", *words)
        assert code == 2
        assert f"refsweep sweep adopt s --storage {tmp_path}/refsweep-out" in err
    assert refsweep("sweep", "status", "s")[0] == 0
    assert refsweep("model", "promote", "s")[0] == 2
    assert not (tmp_path / "a").exists()
    code, out, _ = refsweep("sweep", "adopt", "s", "--json")
    assert code == 0
    assert json.loads(out)["ledger"] == url(tmp_path / "refsweep-out")
    assert refsweep("sweep", "verify", "s")[0] == 0
    (tmp_path / "refsweep-out/s/1/end.json").unlink()
    code, out, err = refsweep("sweep", "verify", "s", "--json")
    assert code == 1
    assert json.loads(out)["differences"][0]["what"] == "trial 1: end.json is missing"
    assert "`refsweep sweep verify s --repair` mends what it can" in err
    code, out, _ = refsweep("sweep", "verify", "s", "--repair", "--json")
    assert (code, json.loads(out)["repaired"]) == (0, ["trial 1: end.json was written"])


def test_storage_and_ledger_that_are_given_must_be_those_of_the_record(tmp_path: Path, refsweep: Refsweep):
    ledger = f"sqlite:///{tmp_path}/here/ledger.db"
    run(spec_of(tmp_path / "a", ledger=ledger))
    code, _, err = refsweep("sweep", "sync", "s", "--ledger", ledger, "--storage", "b")
    assert code == 2
    assert f"storage: it names {tmp_path}/a, it was opened at {tmp_path}/b" in err
    for found in (["--ledger", ledger], ["--storage", "here"], ["--ledger", ledger, "--storage", "a"]):
        code, _, err = refsweep("sweep", "sync", "s", *found)
        assert (code, "tracking: this sweep has none" in err) == (2, True), found
    assert refsweep("sweep", "adopt", "s", "--storage", "here", "--tracking", "http://mlflow:5000")[0] == 0
    assert record_of(ledger).spec["storage"] == str(tmp_path / "a"), "--storage only says where the ledger is"
    assert record_of(ledger).spec["tracking"] == "http://mlflow:5000"
