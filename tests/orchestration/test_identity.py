"""Names are not unique: two sweeps of one name on shared storage, ledgers and MLflow; sweeps moved and copied."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from refsweep.datasets.problems import InputError
from refsweep.datasets.storage.store import Store
from refsweep.orchestration.admission import PROBE
from refsweep.orchestration.adopt import Places, adopt
from refsweep.orchestration.execution.inline import InlineBackend
from refsweep.orchestration.ledger.ledger import Ledger
from refsweep.orchestration.spec.marker import SWEEP_FILE, marker_of
from refsweep.orchestration.spec.read import make_spec
from refsweep.orchestration.spec.schema import SweepSpec
from refsweep.orchestration.sweep import Outcome, find_sweep, open_sweep
from refsweep.orchestration.tracking.client import make_client
from refsweep.orchestration.tracking.projector import Projector, RefusedError
from refsweep.orchestration.tracking.runs import LEDGER, PARENT, SWEEP_ID, TRIAL
from refsweep.tests.help import tree
from refsweep.trainables.training.sealed import seal


def spec_of(storage: Path | str, **parts: Any) -> SweepSpec:
    return make_spec(
        {
            "name": "s",
            "trainable": "toy",
            "data": "none",
            "storage": str(storage),
            "tracking": "none",
            "objective": {"metric": "loss", "mode": "min"},
            "search": {"trials": 2, "sampler": "random", "pruner": "none"},
            "fixed": {"epochs": 1},
            **parts,
        }
    )


def run(spec: SweepSpec, **how: bool) -> Outcome:
    with open_sweep(spec) as sweep:
        return sweep.run(InlineBackend(), **how)


def synced(ledger_url: str) -> dict[str, int]:
    with find_sweep(ledger_url, "s") as sweep:
        return sweep.sync()


def record_of(ledger_url: str) -> Any:
    ledger = Ledger.open(ledger_url, "s")
    ledger.close()
    return ledger.record


def url(folder: Path) -> str:
    return f"sqlite:///{folder}/ledger.db"


def runs_in(tracking: str) -> list[Any]:
    client = make_client(tracking)
    ids = [e.experiment_id for e in client.search_experiments()]
    return list(client.search_runs(ids))


def by_sweep(tracking: str) -> Counter[str]:
    """How many runs carry each sweep's id."""
    return Counter(run.data.tags.get(SWEEP_ID, "") for run in runs_in(tracking))


@pytest.fixture(scope="module")
def mlflow_tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    make_client(f"sqlite:///{path}")
    return path


@pytest.fixture
def tracking(mlflow_tables: Path, tmp_path: Path) -> str:
    """Of an MLflow that is empty."""
    shutil.copy(mlflow_tables, tmp_path / "shared-mlflow.db")
    return f"sqlite:///{tmp_path}/shared-mlflow.db"


# -- one name ----------------------------------------------------------------------------------------------


def test_two_sweeps_of_one_name_in_one_mlflow_have_runs_of_their_own(tmp_path: Path, tracking: str):
    one, two = (spec_of(tmp_path / name, tracking=tracking) for name in ("one", "two"))
    for spec in (one, two):
        assert run(spec).mlflow_behind is None
    ids = [record_of(spec.ledger_url).id for spec in (one, two)]
    assert by_sweep(tracking) == {ids[0]: 3, ids[1]: 3}
    before = {r.info.run_id: (r.data.metrics, r.data.params) for r in runs_in(tracking)}
    for spec in (two, one):
        assert synced(spec.ledger_url) == {"trials": 2, "deleted": 0}
    assert {r.info.run_id: (r.data.metrics, r.data.params) for r in runs_in(tracking)} == before
    for spec, sweep_id in zip((one, two), ids, strict=True):
        own = [r for r in runs_in(tracking) if r.data.tags[SWEEP_ID] == sweep_id]
        parents = [r for r in own if TRIAL not in r.data.tags]
        assert [r.data.tags[LEDGER] for r in parents] == [spec.ledger_url]
        children = {r.data.tags[TRIAL]: r for r in own if TRIAL in r.data.tags}
        assert {r.data.tags[PARENT] for r in children.values()} == {parents[0].info.run_id}
        assert {n: children[f"s/{n}"].info.run_id for n in (0, 1)} == record_of(spec.ledger_url).run_ids


@pytest.mark.parametrize("place", ["folder", "s3"])
def test_two_ledgers_cannot_share_a_folder_of_storage(place: str, tmp_path: Path, request: pytest.FixtureRequest):
    at = tmp_path / "shared" if place == "folder" else f"{request.getfixturevalue('s3')}/{tmp_path.name}"
    one, two = (spec_of(at, ledger=f"sqlite:///{tmp_path}/{name}.db") for name in ("one", "two"))
    run(one)
    store = Store(f"{at}/s")
    files = [*store.walk()]
    with pytest.raises(InputError, match=r"belongs to another sweep 's': ledger sqlite.*one.db on host .*--set name="):
        run(two)
    assert [*store.walk()] == files
    assert not (tmp_path / "two.db").exists(), "a refused start leaves no ledger"
    marker = marker_of(store)
    assert marker is not None
    assert marker.sweep_id == record_of(one.ledger_url).id
    assert run(spec_of(at, name="t", ledger=two.ledger)).state == "finished"


def test_one_ledger_holds_one_sweep_of_a_name(tmp_path: Path):
    ledger = url(tmp_path)
    run(spec_of(tmp_path / "one", ledger=ledger))
    with pytest.raises(InputError, match=r"storage: .*one -> .*two\n.*refsweep sweep adopt s --storage .*two"):
        run(spec_of(tmp_path / "two", ledger=ledger))
    assert not (tmp_path / "two").exists()
    assert run(spec_of(tmp_path / "one", ledger=ledger)).state == "finished"


def test_a_ledger_that_was_deleted_does_not_give_its_checkpoints_to_the_next(tmp_path: Path):
    spec = spec_of(tmp_path)
    run(spec)
    for path in tmp_path.glob("ledger.db*"):
        path.unlink()
    with pytest.raises(InputError, match=r"verify s --repair"):
        run(spec)
    (tmp_path / "s" / SWEEP_FILE).unlink()  # as an earlier version left it
    with pytest.raises(InputError, match=r"holds checkpoints of another sweep 's' \(0/end.json\)"):
        run(spec)
    assert not (tmp_path / "ledger.db").exists()


def test_a_marker_is_written_before_anything_else_and_one_that_is_torn_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    written: list[str] = []
    write = Store.write
    monkeypatch.setattr(Store, "write", lambda *a: written.append(a[1]) or write(*a))
    run(spec_of(tmp_path))
    assert next(file for file in written if file != PROBE) == SWEEP_FILE
    (tmp_path / "s" / SWEEP_FILE).write_text("{")
    with pytest.raises(InputError, match=r"sweep.json says whose this folder is, and can't be read"):
        run(spec_of(tmp_path))


# -- moved -------------------------------------------------------------------------------------------------


def test_a_sweep_that_was_moved_is_driven_where_it_is_only_after_it_was_adopted(tmp_path: Path):
    a, b = tmp_path / "a", tmp_path / "b"
    run(spec_of(a))
    kept = record_of(url(a)).id
    a.rename(b)
    for act in (lambda s: s.run(InlineBackend()), lambda s: s.sync(), lambda s: s.stop(), lambda s: s.promote()):
        with pytest.raises(InputError, match=r"refsweep sweep adopt s"), find_sweep(url(b), "s") as sweep:
            act(sweep)
    with find_sweep(url(b), "s", readonly=True) as sweep:
        assert len(sweep.status()["trials"]) == 2
    assert not a.exists()
    adopted = adopt("s", Places(ledger=url(b), storage=str(b)))
    assert (adopted["id"], adopted["storage"], adopted["ledger"]) == (kept, str(b), url(b))
    ends = [t.datetime_complete for t in Ledger.open(url(b), "s").trials]
    with find_sweep(url(b), "s") as sweep:
        sweep.change(["search.trials=3"])
        assert sweep.run(InlineBackend()).state == "finished"
        assert [t.datetime_complete for t in sweep.ledger.trials[:2]] == ends
    assert not a.exists(), "nothing is made again at the old place"


def test_storage_that_was_moved_apart_from_its_ledger(tmp_path: Path):
    a, b, ledger = tmp_path / "a", tmp_path / "b", f"sqlite:///{tmp_path}/here.db"
    spec = spec_of(a, ledger=ledger)
    run(spec)
    a.rename(b)
    with pytest.raises(InputError, match=r"a/s is empty or gone.*\n?.*adopt s --storage STORAGE --ledger"):
        run(spec)
    with pytest.raises(InputError, match=r"storage: it names .*a, it was opened at .*b"):
        find_sweep(ledger, "s", storage=str(b))
    with pytest.raises(InputError, match=r"holds no checkpoint of sweep 's'"):
        adopt("s", Places(ledger=ledger, storage=str(tmp_path / "wrong")))
    adopt("s", Places(ledger=ledger, storage=str(b)))
    assert run(spec_of(b, ledger=ledger)).state == "finished"
    assert not a.exists()


def test_a_mistyped_tracking_is_mended(tmp_path: Path, tracking: str):
    run(spec_of(tmp_path / "a", tracking="none"))
    with pytest.raises(InputError, match=r"tracking: none -> .*\n.*adopt s --tracking sqlite"):
        run(spec_of(tmp_path / "a", tracking=tracking))
    adopt("s", Places(ledger=url(tmp_path / "a"), tracking=tracking))
    assert synced(url(tmp_path / "a")) == {"trials": 2, "deleted": 0}
    assert by_sweep(tracking).total() == 3


# -- copied ------------------------------------------------------------------------------------------------


def test_of_a_copy_that_was_adopted_the_original_is_refused(tmp_path: Path, tracking: str):
    a, b = tmp_path / "a", tmp_path / "b"
    run(spec_of(a, tracking=tracking))
    shutil.copytree(a, b)
    adopt("s", Places(ledger=url(b), storage=str(b)))
    before = tree(a)
    with pytest.raises(InputError, match=f"sweep 's' has moved to another place: ledger {url(b)}"):
        run(spec_of(a, tracking=tracking))
    assert tree(a) == before
    (a / "s" / SWEEP_FILE).unlink()  # on another machine, say: MLflow knows all the same
    assert synced(url(b)) == {"trials": 2, "deleted": 0}
    behind = run(spec_of(a, tracking=tracking)).mlflow_behind
    assert behind is not None
    assert "is a copy of it" in behind
    assert by_sweep(tracking).total() == 3
    adopt("s", Places(ledger=url(a), storage=str(a)))
    assert synced(url(a)) == {"trials": 2, "deleted": 0}
    with pytest.raises(InputError, match=r"is a copy of it"):
        synced(url(b))


def test_a_copy_becomes_a_sweep_of_its_own_with_runs_of_its_own(tmp_path: Path, tracking: str):
    a, b = tmp_path / "a", tmp_path / "b"
    run(spec_of(a, tracking=tracking))
    before = {r.info.run_id: dict(r.data.tags) for r in runs_in(tracking)}
    with pytest.raises(InputError, match=r"--copy needs a copy of the sweep"):
        adopt("s", Places(ledger=url(a), storage=str(a)), copy=True)
    shutil.copytree(a, b)
    adopted = adopt("s", Places(ledger=url(b), storage=str(b)), copy=True)
    original = record_of(url(a))
    assert adopted["copy_of"] == original.id != adopted["id"]
    assert by_sweep(tracking) == {original.id: 3, adopted["id"]: 3}
    with find_sweep(url(b), "s") as sweep:
        sweep.change(["search.trials=3"])
        assert sweep.run(InlineBackend()).mlflow_behind is None
    assert by_sweep(tracking) == {original.id: 3, adopted["id"]: 4}
    assert {r.info.run_id: dict(r.data.tags) for r in runs_in(tracking) if r.info.run_id in before} == before
    assert run(spec_of(a, tracking=tracking)).state == "finished", "the original goes on"
    with pytest.raises(InputError, match=r"belongs to another sweep"):
        adopt("s", Places(ledger=url(b), storage=str(a)))


def test_the_checkpoints_of_a_copy_are_its_own_and_a_strangers_are_not(tmp_path: Path):
    a, b = tmp_path / "a", tmp_path / "b"
    run(spec_of(a))
    shutil.copytree(a, b)
    adopt("s", Places(ledger=url(b), storage=str(b)), copy=True)
    for folder, good in ((b, True), (a, False)):
        with closing(sqlite3.connect(folder / "ledger.db")) as database, database:
            database.execute("UPDATE trials SET state = 'RUNNING', datetime_complete = NULL WHERE number = 1")
        if not good:
            own = next((a / "s/1").glob("epoch-*/manifest.json"))
            own.write_bytes(seal(json.loads(own.read_text().replace(record_of(url(a)).id, "00000000-another"))))
        outcome = run(spec_of(folder), resuming=True)
        assert outcome.state == ("finished" if good else "halted")
        if not good:
            assert outcome.bad_input
            assert "of another sweep of this name: its id is 00000000-another" in str(outcome.cause)


def test_a_driver_keeps_its_sweep_from_being_adopted(tmp_path: Path):
    a, b = tmp_path / "a", tmp_path / "b"
    run(spec_of(a))
    shutil.copytree(a, b)
    with find_sweep(url(a), "s") as sweep:
        sweep.ledger.take_lease()
        with pytest.raises(InputError, match=r"has a driver"):
            adopt("s", Places(ledger=url(b), storage=str(b)))
    adopt("s", Places(ledger=url(b), storage=str(b)))


# -- of before ---------------------------------------------------------------------------------------------


def test_runs_of_a_sweep_without_an_id_get_it_at_the_next_sync_and_others_are_left_alone(tmp_path: Path, tracking: str):
    spec = spec_of(tmp_path / "a", tracking=tracking)
    run(spec)
    client, runs = make_client(tracking), runs_in(tracking)
    for known in runs:  # as an earlier version left them
        for tag in (SWEEP_ID, LEDGER):
            if tag in known.data.tags:
                client.delete_tag(known.info.run_id, tag)
    with closing(sqlite3.connect(tmp_path / "a" / "ledger.db")) as database, database:
        database.execute("DELETE FROM study_user_attributes WHERE key IN ('id', 'term')")
    (tmp_path / "a" / "s" / SWEEP_FILE).unlink()
    tags = {"refsweep.sweep": "s", TRIAL: "s/0", "refsweep.kind": "trial"}
    other = client.create_run(runs[0].info.experiment_id, tags=tags).info.run_id
    assert synced(spec.ledger_url) == {"trials": 2, "deleted": 0}
    sweep_id = record_of(spec.ledger_url).id
    assert by_sweep(tracking) == {sweep_id: 3, "": 1}
    assert {r.info.run_id for r in runs_in(tracking)} == {*(r.info.run_id for r in runs), other}
    marker = marker_of(Store(str(tmp_path / "a" / "s")))
    assert marker is not None
    assert marker.sweep_id == sweep_id


# -- what MLflow does not take -----------------------------------------------------------------------------


def test_a_text_that_no_database_stores_is_sent_all_the_same(tmp_path: Path, tracking: str):
    spec = spec_of(tmp_path / "a", tracking=tracking)
    run(spec)
    said = [r"the file caf\udce9.png", "a\\u0000b"]  # JSON: a lone surrogate, as of a Latin-1 file name, and NUL
    with closing(sqlite3.connect(tmp_path / "a" / "ledger.db")) as database, database:
        for trial, text in enumerate(said, 1):
            insert = "INSERT INTO trial_user_attributes (trial_id, key, value_json) VALUES (?, 'cause', ?)"
            database.execute(insert, (trial, f'"{text}"'))
    assert synced(spec.ledger_url) == {"trials": 2, "deleted": 0}
    causes = {r.data.tags.get(TRIAL): r.data.tags.get("refsweep.cause") for r in runs_in(tracking)}
    assert causes == {None: None, "s/0": r"the file caf\udce9.png", "s/1": r"a\x00b"}


def test_a_trial_that_mlflow_refuses_is_named_and_the_others_arrive(
    tmp_path: Path, tracking: str, monkeypatch: pytest.MonkeyPatch
):
    spec = spec_of(tmp_path / "a", tracking=tracking)
    send = Projector._send

    def refuse(projector: Projector, what: Any, *args: Any, **kwargs: Any) -> Any:
        if any(p.key == "x" for p in kwargs.get("params", ())) and args[0] == projector._runs.get(0):
            raise ValueError("this one not\nsecond line")
        return send(projector, what, *args, **kwargs)

    monkeypatch.setattr(Projector, "_send", refuse)
    outcome = run(spec)
    assert outcome.mlflow_behind == "MLflow refused trial s/0: ValueError: this one not"
    with pytest.raises(RefusedError, match=r"^MLflow refused trial s/0: ValueError: this one not$"):
        synced(spec.ledger_url)
    found = {r.data.tags.get(TRIAL): r for r in runs_in(tracking)}
    assert found["s/1"].info.status == "FINISHED"
    assert "loss" in found["s/1"].data.metrics
    assert found[None].data.tags["refsweep.state"] == "finished"
    monkeypatch.undo()
    assert synced(spec.ledger_url) == {"trials": 2, "deleted": 0}


def test_deleted_experiments_and_runs_come_back_and_children_name_their_parent(tmp_path: Path, tracking: str):
    spec = spec_of(tmp_path / "a", tracking=tracking)
    run(spec)
    client = make_client(tracking)
    before = {r.data.tags.get(TRIAL): r.info.run_id for r in runs_in(tracking)}
    client.delete_experiment(client.get_experiment_by_name("toy").experiment_id)
    assert runs_in(tracking) == []
    assert synced(spec.ledger_url) == {"trials": 2, "deleted": 0}
    assert {r.data.tags.get(TRIAL): r.info.run_id for r in runs_in(tracking)} == before
    client.delete_run(before[None])
    client.delete_run(before["s/0"])
    assert synced(spec.ledger_url) == {"trials": 2, "deleted": 0}
    after = {r.data.tags.get(TRIAL): r for r in runs_in(tracking)}
    assert after["s/1"].info.run_id == before["s/1"]
    assert after["s/0"].info.run_id not in before.values()
    assert {after[f"s/{n}"].data.tags[PARENT] for n in (0, 1)} == {after[None].info.run_id}
    assert "loss" in after["s/0"].data.metrics


def test_what_is_deleted_while_a_sweep_runs_is_made_again(tmp_path: Path, tracking: str):
    spec = spec_of(tmp_path / "a", tracking=tracking)
    run(spec)
    with find_sweep(spec.ledger_url, "s") as sweep:
        sweep.ledger.take_lease()
        projector = Projector(tracking, sweep.ledger, sweep.checkpoints)
        assert projector.reconcile() == {"trials": 2, "deleted": 0}
        for run_id in (projector.parent_run(), projector.run_of(sweep.ledger.trials[1])):
            projector.client.delete_run(run_id)
        projector.sweep("finished")
        assert projector.reconcile() == {"trials": 2, "deleted": 0}
    runs = {r.data.tags.get(TRIAL): r for r in runs_in(tracking)}
    assert {runs[f"s/{n}"].data.tags[PARENT] for n in (0, 1)} == {runs[None].info.run_id}
