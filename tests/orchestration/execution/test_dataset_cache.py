"""What a process has read of a data set it keeps from trial to trial, whatever the trainable."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from refsweep.datasets.frames import cache
from refsweep.datasets.storage.store import Store
from refsweep.orchestration.execution.attempt import DatasetCache
from refsweep.tests.trainables.tools import Family, case_of
from refsweep.trainables import discovery

WITH_DATA = [name for name in discovery.names() if case_of(name).write_data is not None]


@pytest.mark.parametrize("name", WITH_DATA)
def test_the_second_trial_decodes_nothing_again(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    family = Family(name=name, case=case_of(name), folder=tmp_path)
    assert family.case.write_data is not None
    family.case.write_data(tmp_path)
    decoded: list[str] = []
    decode = cache._decode

    def counted(source: Any, path: str, where: str) -> Any:
        decoded.append(path)
        return decode(source, path, where)

    monkeypatch.setattr(cache, "_decode", counted)
    datasets = DatasetCache()
    counts = []
    for seed in (0, 1):
        task = family.module.Task(family.config(seed=seed), datasets.get(name, str(tmp_path)))
        for split in ("train", *task.eval_splits):
            task.read(task.plan(split, 0, 0), Store(str(tmp_path)))
        counts.append(len(decoded))
    assert counts[0] == len(set(decoded)) > 5
    assert counts[1] == counts[0]


def test_another_data_set_takes_the_place_of_the_first(tmp_path: Path):
    for name in WITH_DATA[:2]:
        write = case_of(name).write_data
        assert write is not None
        write(tmp_path / name)
    datasets = DatasetCache()
    one, two = ((name, str(tmp_path / name)) for name in WITH_DATA[:2])
    first = datasets.get(*one)
    assert datasets.get(*one) is first
    assert datasets.get(*two) is not first
    assert datasets.get(*one) is not first
    assert datasets.get("toy", None) is None
