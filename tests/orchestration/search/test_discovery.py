"""A sampler or a pruner is one file: what lies in the folder is found, checked, built and used by its name."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from refsweep.datasets.problems import InputError
from refsweep.orchestration.search import discovery
from refsweep.orchestration.search.protocol import Assignment, Report
from refsweep.tests.help import toy_driver

CORNER = '''
from optuna.samplers import BaseSampler, PartialFixedSampler, RandomSampler
from refsweep.orchestration.search.samplers.base import Sampler

class Corner(Sampler):
    """Every trial in one corner."""
    def for_trial(self, number: int) -> BaseSampler:
        return PartialFixedSampler({"x": 5.0, "y": -5.0 + number}, RandomSampler(seed=self.seed_of(number)))
'''
EVERYONE = '''
from refsweep.orchestration.search.pruners.asha import Asha
from refsweep.orchestration.search.pruners.base import Pruner

class Everyone(Pruner):
    """Ends every trial as soon as it may."""
    def should_prune(self, number, epoch, values):
        return self.judges(epoch)
'''


@pytest.fixture
def two_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A sampler and a pruner in folders that count as part of the package's."""
    for folder, name, text in (("samplers", "corner", CORNER), ("pruners", "everyone", EVERYONE)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"{name}.py").write_text(text)
        package = importlib.import_module(f"refsweep.orchestration.search.{folder}")
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path / folder)])
    yield
    for module in ("samplers.corner", "pruners.everyone"):
        sys.modules.pop(f"refsweep.orchestration.search.{module}", None)


@pytest.mark.usefixtures("two_files")
def test_a_file_in_the_folder_is_a_sampler_or_pruner_that_a_sweep_may_name(tmp_path: Path):
    assert "corner" in discovery.sampler_names()
    assert "everyone" in discovery.pruner_names()
    driver = toy_driver(tmp_path / "out", sampler="corner", pruner="everyone", min_epochs=2)
    for number in range(2):
        trial = driver.next_action()
        assert isinstance(trial, Assignment)
        assert (trial.config["x"], trial.config["y"]) == (5.0, -5.0 + number)
        entries = [{"epoch": e, "time_ms": e, "seconds": 1.0, "metrics": {"loss": 1.0}, "setting": {}} for e in (1, 2)]
        driver.on_result(Report(number=number, attempt=1, entries=entries[:1]))
        assert driver.ledger.trials[number].state.name == "RUNNING"
        driver.on_result(Report(number=number, attempt=1, entries=entries[1:]))
        assert driver.ledger.trials[number].state.name == "PRUNED"


@pytest.mark.parametrize("name", ["bo", "base", "", "../asha", "tpe.Tpe"])
def test_a_name_that_is_none_is_bad_input_with_the_choices(name: str):
    with pytest.raises(InputError) as sampler:
        discovery.sampler_class(name)
    assert str(sampler.value) == f"sampler must be one of {', '.join(discovery.sampler_names())}, got {name!r}"
    with pytest.raises(InputError) as pruner:
        discovery.pruner_class(name)
    assert str(pruner.value) == f"pruner must be one of {', '.join(discovery.pruner_names())}, got {name!r}"
