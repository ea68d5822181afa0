"""The ledger's own SQL writes what Optuna's storage writes, row for row."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest
import sqlalchemy
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial
from refsweep.orchestration.ledger import sql as records_module
from refsweep.orchestration.ledger.ledger import Ledger
from refsweep.orchestration.ledger.sql import Records, as_stored

KINDS: dict[str, BaseDistribution] = {
    "lr": FloatDistribution(1e-5, 1e-1, log=True),
    "share": FloatDistribution(0.0, 1.0, step=0.25),
    "depth": IntDistribution(1, 9, step=2),
    "width": IntDistribution(1, 1024, log=True),
    "mode": CategoricalDistribution(["a", None, True, 1, 0.5]),
}
PARAMS: dict[str, Any] = {"lr": 0.1 + 0.2 - 0.25, "share": 0.75, "depth": 7, "width": 12, "mode": True}
TABLES = ("params", "user_attributes", "system_attributes", "values", "intermediate_values")


def template(**params: Any) -> FrozenTrial:
    found = create_trial(
        state=TrialState.RUNNING,
        params={**PARAMS, **params},
        distributions=KINDS,
        user_attrs={"config": {"a": (0.5, None), "é": "\n'"}, "attempt": 1},
        system_attrs={"tpe:relative_params:0": '{"lr": 0.01}'},
    )
    found.datetime_start = datetime(2026, 3, 29, 12, 30, 15, 123456)
    return found


@pytest.fixture
def storage(ledger_url: str) -> Iterator[RDBStorage]:
    made = RDBStorage(ledger_url)
    yield made
    made.remove_session()
    made.engine.dispose()


def rows(storage: RDBStorage, study_id: int) -> list[Any]:
    """All that is stored of a study, without ids and without the time at which a trial ended."""
    with storage.engine.connect() as connection:

        def of(table: str, condition: str, hidden: set[str]) -> list[dict[str, Any]]:
            found = connection.execute(sqlalchemy.text(f"SELECT * FROM {table} WHERE {condition}")).mappings()  # noqa: S608
            return sorted(({k: v for k, v in row.items() if k not in hidden} for row in found), key=str)

        trials = of("trials", f"study_id = {study_id}", {"study_id"})
        found: list[Any] = [
            of("study_user_attributes", f"study_id = {study_id}", {"study_id", "study_user_attribute_id"})
        ]
        for trial in sorted(trials, key=lambda t: t["number"]):
            mine = f"trial_id = {trial['trial_id']}"
            ids = {"trial_id", "param_id", *(f"trial_{t.removesuffix('s')}_id" for t in TABLES)}
            ended = trial.pop("datetime_complete") is not None
            found.append([trial, ended, *(of(f"trial_{table}", mine, ids) for table in TABLES)])
            del trial["trial_id"]
        return found


def study(storage: RDBStorage, name: str, objectives: int = 1) -> int:
    return storage.create_new_study([StudyDirection.MINIMIZE] * objectives, name)


@pytest.mark.parametrize("values", [[0.1 + 0.2], [float("inf")], [1.0, float("-inf")], None])
@pytest.mark.parametrize("state", [TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL])
def test_every_write_leaves_the_rows_that_optunas_own_leaves(
    storage: RDBStorage, state: TrialState, values: list[float] | None
):
    if values is None and state is TrialState.COMPLETE:
        values = [1e-300]
    theirs, ours = study(storage, "theirs", 2), study(storage, "ours", 2)
    records = Records(storage, ours, ())
    storage.set_study_user_attr(theirs, "spec", {"b": (1, 2)})
    storage.set_study_user_attr(theirs, "spec", {"b": None})
    records.set_attribute("spec", {"b": (1, 2)})
    records.set_attribute("spec", {"b": None})
    for number in range(2):
        a = storage.create_new_trial(theirs, template(depth=1 + 2 * number))
        b = records.create(template(depth=1 + 2 * number), number)
        assert b is not None
        for step, value in ((1, 0.25), (3, float("nan")), (1, 0.5), (2, float("-inf"))):
            storage.set_trial_intermediate_value(a, step, value)
            records.report(b, step, value)
        for key, content in (("usage", [{"began_s": 0.1}]), ("attempt", 2)):
            storage.set_trial_user_attr(a, key, content)
            records.note(b, key, content)
        storage.set_trial_system_attr(a, "constraints:oom", 1.0)
        records.mark(b, "constraints:oom", 1.0)
    storage.set_trial_user_attr(a, "cause", "é")
    storage.set_trial_user_attr(a, "usage", [])
    storage.set_trial_state_values(a, state, values)
    records.end(b, state, values, {"cause": "é", "usage": []}, datetime.now())
    assert rows(storage, ours) == rows(storage, theirs)
    assert [t[1] for t in rows(storage, ours)[1:]] == [False, True]


def test_a_new_trial_is_known_as_it_is_read_back(storage: RDBStorage):
    made = template()
    trial_id = Records(storage, study(storage, "s"), ()).create(made, 0)
    assert trial_id is not None
    assert as_stored(made, 0, trial_id) == storage.get_trial(trial_id)


def test_what_is_over_is_not_written_to(storage: RDBStorage):
    mine = study(storage, "s")
    records = Records(storage, mine, ())
    trial_id = records.create(template(), 0)
    assert trial_id is not None
    at = datetime.now()
    records.end(trial_id, TrialState.PRUNED, [0.5], {}, at)
    before = rows(storage, mine)
    for write in (
        lambda: records.report(trial_id, 1, 0.5),
        lambda: records.note(trial_id, "cause", "none"),
        lambda: records.mark(trial_id, "constraints:oom", 1.0),
        lambda: records.end(trial_id, TrialState.COMPLETE, [0.25], {"cause": "none"}, at),
    ):
        with pytest.raises(UpdateFinishedTrialError):
            write()
    assert rows(storage, mine) == before


def test_a_number_that_is_taken_is_not_given_again(storage: RDBStorage):
    mine = study(storage, "s")
    records = Records(storage, mine, ())
    assert records.create(template(), 0) is not None
    before = rows(storage, mine)
    assert records.create(template(depth=1), 0) is None
    assert rows(storage, mine) == before


def test_a_parameter_of_another_kind_than_before_is_refused_and_nothing_is_written(storage: RDBStorage):
    mine = study(storage, "s")
    Records(storage, mine, ()).create(template(), 0)
    before = rows(storage, mine)
    later = Records(storage, mine, storage.get_all_trials(mine))
    other = template()
    other.distributions = {**KINDS, "mode": CategoricalDistribution(["a", "b"])}
    other.params = {**PARAMS, "mode": "a"}
    with pytest.raises(ValueError, match="CategoricalDistribution does not support dynamic value space"):
        later.create(other, 1)
    assert rows(storage, mine) == before


def test_an_end_is_written_whole_or_not_at_all(ledger: Ledger, monkeypatch: pytest.MonkeyPatch):
    made = ledger.create_trial(template())

    def killed(_: datetime) -> datetime:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(records_module, "_utc", killed)  # the last thing that is asked for
        with pytest.raises(KeyboardInterrupt):
            ledger.tell(0, TrialState.COMPLETE, [0.5], {"cause": "so it is"})
    with contextlib.closing(Ledger.open(ledger.url, "s")) as found:
        assert found.trials == [made]
    ledger.tell(0, TrialState.COMPLETE, [0.5], {"cause": "so it is", "setting": {"a": (1, 2)}})
    with contextlib.closing(Ledger.open(ledger.url, "s")) as found:
        assert found.trials == ledger.trials
        assert found.trials[0].user_attrs["setting"] == {"a": [1, 2]}


def test_a_database_that_is_away_is_said_as_optuna_says_it():
    storage = RDBStorage("sqlite://")
    records = Records(storage, study(storage, "s"), ())
    sqlalchemy.MetaData().reflect(storage.engine)
    with storage.engine.begin() as connection:
        connection.execute(sqlalchemy.text("DROP TABLE trials"))
    with pytest.raises(StorageInternalError, match="no such table"):
        records.create(template(), 0)
