"""Data and settings that several files of this folder share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
import torch
from refsweep.tests.trainables.tools import Family, case_of


@pytest.fixture(scope="session")
def family_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Family]:
    """A family with its tiny data, by its name. The data is written once; tests that change it write their own."""

    @cache
    def make(name: str) -> Family:
        case, folder = case_of(name), tmp_path_factory.mktemp(name)
        if case.write_data is not None:
            case.write_data(folder)
        return Family(name=name, case=case, folder=folder)

    return make


@pytest.fixture(scope="session")
def people(family_of: Callable[[str], Family]) -> Path:
    """A few people in the layout of CUHK-PEDES."""
    return family_of("t2i_reid").folder


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Threads that share tensors this small only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
