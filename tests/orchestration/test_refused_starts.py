"""A start that is refused leaves nothing behind that the next one trips over; a sweep is continued in its own space."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from optuna.study import StudyDirection
from refsweep.datasets.problems import InputError
from refsweep.orchestration.execution.inline import InlineBackend
from refsweep.orchestration.ledger.ledger import Ledger
from refsweep.orchestration.search.protocol import Room
from refsweep.orchestration.spec.read import make_spec
from refsweep.orchestration.spec.schema import SweepSpec
from refsweep.orchestration.sweep import Outcome, find_sweep, open_sweep
from refsweep.search_spaces import toy


def spec_of(storage: Path, **parts: Any) -> SweepSpec:
    content = {
        "name": "s",
        "trainable": "toy",
        "data": "none",
        "storage": str(storage / "out"),
        "ledger": f"sqlite:///{storage}/ledger.db",
        "tracking": "none",
        "objective": {"metric": "loss", "mode": "min"},
        "search": {"trials": 2, "sampler": "random", "pruner": "none"},
        "fixed": {"epochs": 1},
    }
    return make_spec({**content, **parts})


def run(spec: SweepSpec, backend: Any = None, **how: Any) -> Outcome:
    with open_sweep(spec) as sweep:
        return sweep.run(backend or InlineBackend(), **how)


class NoRoom(InlineBackend):
    """No node is large enough."""

    def room(self, *_: Any) -> Room:
        raise InputError("resources: no node has 64 CPUs")


def refuse_space(monkeypatch: pytest.MonkeyPatch) -> None:
    def space(trial: Any) -> dict[str, Any]:
        return {"x": trial.suggest_float("x", 5.0, -5.0)}

    monkeypatch.setattr(toy, "space", space)


@pytest.mark.parametrize("why", ["nodes", "storage", "space", "data"])
def test_a_refused_start_writes_no_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str):
    parts: dict[str, Any] = {}
    if why == "storage":
        (tmp_path / "out").write_text("a file where the folder should be")
    elif why == "space":
        refuse_space(monkeypatch)
    elif why == "data":
        parts["data"] = str(tmp_path / "nothing")
    with pytest.raises(InputError):
        run(spec_of(tmp_path, **parts), NoRoom() if why == "nodes" else None)
    assert not (tmp_path / "ledger.db").exists()


def test_a_sweep_without_trials_takes_a_new_spec_its_data_and_its_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    waiting = {"resources": {"wait_s": 1.0}}
    with pytest.raises(InputError, match="64 CPUs"):
        run(spec_of(tmp_path, **waiting), NoRoom())
    with contextlib.closing(Ledger.open(f"sqlite:///{tmp_path}/ledger.db", "s")) as found:
        assert (found.trials, found.state) == ([], "stopped")
        made = found.record.id
        found.update_sweep(data_fingerprint="of other data", halted="for a reason")
    monkeypatch.setattr(toy, "space", lambda trial: {"x": trial.suggest_float("x", -1.0, 1.0), "y": 0.0})
    other = spec_of(
        tmp_path,
        objective=[{"metric": "height", "mode": "max"}, {"metric": "loss", "mode": "min"}],
        search={"trials": 3, "sampler": "random", "pruner": "none"},
        fixed={"epochs": 2},
    )
    assert run(other).state == "finished"
    with contextlib.closing(Ledger.open(other.ledger_url, "s")) as found:
        assert found.record.spec["fixed"] == {"epochs": 2}
        assert found.directions == [StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE]
        assert found.record.id == made
        assert found.record.data_fingerprint == "none"
        assert found.record.halted is None
        assert list(found.record.space or ()) == ["x"]
        assert [len(t.values) for t in found.trials] == [2, 2, 2]
    with pytest.raises(InputError, match="sweep 's' exists with another spec"):
        run(spec_of(tmp_path))


def test_choices_that_were_changed_are_refused_with_parameter_old_and_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    spec = spec_of(tmp_path)
    assert run(spec).state == "finished"
    more = spec_of(tmp_path, search={"trials": 4, "sampler": "random", "pruner": "none"})
    before = Ledger.open(spec.ledger_url, "s")
    kept = (before.trials, before.record.spec, before.record.space)
    before.close()

    def wider(trial: Any) -> dict[str, Any]:
        return {"x": trial.suggest_float("x", -9.0, 5.0), "y": 0.0, "noise": trial.suggest_float("noise", 0.0, 1.0)}

    with monkeypatch.context() as patch:
        patch.setattr(toy, "space", wider)
        with pytest.raises(InputError, match="the search space has changed since sweep 's' began") as error:
            run(more)
        assert str(error.value).splitlines()[1:] == [
            "  noise: not searched -> number 0 .. 1",
            "  x: number -5 .. 5 -> number -9 .. 5",
            "  y: number -5 .. 5 -> not searched",
        ]
        sweep = find_sweep(spec.ledger_url, "s")
        with pytest.raises(InputError, match="the search space has changed"), sweep:
            sweep.run(InlineBackend(), resuming=True)
    after = Ledger.open(spec.ledger_url, "s")
    assert (after.trials, after.record.spec, after.record.space) == kept
    after.close()
    assert run(more).state == "finished"


def test_a_sweep_of_before_is_compared_with_its_trials_and_gets_a_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    spec = spec_of(tmp_path)
    run(spec)
    engine = sqlalchemy.create_engine(spec.ledger_url)
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("DELETE FROM study_user_attributes WHERE key = 'space'"))
    engine.dispose()
    with monkeypatch.context() as patch:
        patch.setattr(toy, "space", lambda trial: {"x": trial.suggest_categorical("x", [1.0, 2.0]), "y": 0.0})
        with pytest.raises(InputError, match=r"x: number -5 .. 5 -> one of \[1.0, 2.0\]\n  y: number .* not searched"):
            run(spec)
    assert run(spec).state == "finished"
    with contextlib.closing(Ledger.open(spec.ledger_url, "s")) as found:
        assert sorted(found.record.space or ()) == ["x", "y"]


def test_what_is_fixed_is_no_part_of_the_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    spec = spec_of(tmp_path, fixed={"epochs": 1, "y": 0.5})
    run(spec)
    with contextlib.closing(Ledger.open(spec.ledger_url, "s")) as found:
        assert list(found.record.space or ()) == ["x"]
    space = toy.space
    monkeypatch.setattr(toy, "space", lambda trial: {**space(trial), "y": trial.suggest_float("y", 0.0, 9.0)})
    run(spec)
