"""Ids of jobs, and versions that must match."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from refsweep.orchestration.jobs.job import next_id, number_of
from refsweep.orchestration.registry.versions import mismatches, versions
from refsweep.orchestration.registry.wheel import code_hash, write_wheel
from refsweep.tests.orchestration.jobs.answers import OURS


@pytest.mark.parametrize(
    ("ids", "following"),
    [
        ([], "a-1"),
        (["a-1", "a-2"], "a-3"),
        (["a-9", "a-10"], "a-11"),  # numbers, not text
        (["a-1-7", "b-4", "a-x", "ba-3", "a.1-2", "raysubmit_Xy-8"], "a-1"),  # other sweeps', also of `a-1`
    ],
)
def test_the_next_id_is_one_more_than_the_highest_of_this_sweep(ids: list[str], following: str):
    assert next_id("a", ids) == following


def test_an_id_belongs_to_one_sweep_only():
    assert number_of("a-1-2", "a-1") == 2
    assert number_of("a-1-2", "a") is None
    assert number_of("axb-2", "a.b") is None, "a dot in a name is a dot"


@pytest.mark.parametrize("same", [{"python": "3.11.9"}, {"torch": "2.15.0+cu128"}, {}])
def test_what_makes_no_difference_is_no_mismatch(same: dict[str, str]):
    assert mismatches(OURS, {**OURS, **same}, "the cluster") == []


@pytest.mark.parametrize(
    ("other", "line"),
    [
        ({"python": "3.12.1"}, "the cluster has Python 3.12.1, the machine that submits has 3.11.7"),
        ({"ray": "2.60.1"}, "the cluster has Ray 2.60.1, the machine that submits has 2.60.0"),
        ({"torch": "none"}, "the cluster has torch none, the machine that submits has 2.15.0"),
        ({"refsweep": "abd"}, "the cluster has refsweep abd, the machine that submits has abc"),
    ],
)
def test_every_mismatch_is_named_with_both_versions(other: dict[str, str], line: str):
    assert mismatches(OURS, {**OURS, **other}, "the cluster") == [line]
    assert len(mismatches(OURS, {"python": "3.1.0", "ray": "1", "torch": "1", "refsweep": "1"}, "x")) == 4


def test_the_hash_of_the_code_is_that_of_the_unpacked_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import refsweep

    here = code_hash()
    with zipfile.ZipFile(write_wheel(tmp_path)) as wheel:
        wheel.extractall(tmp_path / "there")
    there = tmp_path / "there" / "refsweep"
    monkeypatch.setattr(refsweep, "__file__", str(there / "__init__.py"))
    assert code_hash() == here
    (there / "orchestration" / "driver.py").write_text("# changed")
    assert code_hash() != here
    assert versions()["refsweep"] == code_hash()
