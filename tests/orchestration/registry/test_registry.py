"""Who is champion: against the real client of an MLflow on SQLite, with versions that have no files."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow.exceptions import MlflowException
from refsweep.datasets.problems import InputError
from refsweep.datasets.storage.store import Store
from refsweep.orchestration.adopt import Places, adopt
from refsweep.orchestration.cli.model import _package, app
from refsweep.orchestration.ledger.ledger import Ledger
from refsweep.orchestration.registry import catalogue
from refsweep.orchestration.registry.history import Kind, Phase, champions
from refsweep.orchestration.registry.registry import Registry
from refsweep.orchestration.spec.errors import WorkFailedError
from refsweep.orchestration.sweep import find_sweep
from refsweep.tests.orchestration.registry.light import Place, backwards_and_forwards, swept, without_files
from refsweep.trainables.training.checkpoints import Checkpoints
from refsweep.trainables.training.package import Package
from typer.testing import CliRunner


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    _, ledger = swept(folder / "out", synced=True)
    ledger.close()
    return folder / "out"


@pytest.fixture
def place(made: Path, tmp_path: Path) -> Iterator[Place]:
    shutil.copytree(made, tmp_path / "out")
    yield from opened(tmp_path / "out")


def opened(storage: Path, tracking: str | None = None) -> Iterator[Place]:
    """A sweep whose files were copied, as one that was moved there."""
    adopt("t", Places(ledger=f"sqlite:///{storage}/ledger.db", storage=str(storage)))
    with find_sweep(f"sqlite:///{storage}/ledger.db", "t") as sweep, without_files():
        spec = sweep.spec.model_copy(update={"storage": str(storage)})
        uri = tracking or f"sqlite:///{storage}/mlflow.db"
        yield Place(spec.model_copy(update={"tracking": uri}), sweep.ledger, Registry(uri))


# -- names ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("toy", "2"),
        ("toy@champion", "2"),
        ("toy@previous", "1"),
        ("toy/1", "1"),
        ("toy/02", "2"),
        ("toy@latest", "2"),
        ("models:/toy@previous", "1"),
        ("models:/toy/2", "2"),
    ],
)
def test_a_version_is_found_by_every_form_of_its_name(two: Place, name: str, version: str):
    assert two.registry.resolve(name) == ("toy", version)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("toy/9", r"model 'toy' has no version '9'; there are: 1, 2"),
        ("toy@best", "no version with the alias 'best'"),
        ("gpt", "no model 'gpt' in .*; there are: toy"),
        ("a'b", r"no model \"a'b\" in"),
        ("toy/", "a model is named MODEL, MODEL@ALIAS or MODEL/VERSION, got 'toy/'"),
    ],
)
def test_a_name_of_nothing_is_bad_input(two: Place, name: str, message: str):
    with pytest.raises(InputError, match=message):
        two.registry.resolve(name)


@pytest.fixture(scope="module")
def two(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Trials 0 and 1 were champion, in this order; tests only read it."""
    storage = tmp_path_factory.mktemp("two") / "out"
    shutil.copytree(made, storage)
    for found in opened(storage):
        found.promote(0)
        found.promote(1)
        yield found


# -- rollback ------------------------------------------------------------------------------------------------


def test_rollback_goes_one_further_back_each_time(place: Place):
    assert [place.promote(number)["version"] for number in (0, 1, 2)] == [1, 2, 3]
    assert place.aliases == {"champion": "3", "previous": "2"}
    back = place.registry.rollback("toy")
    assert (back["version"], back["replaced"], back["aliases"]) == (2, "3", ["champion"])
    assert place.aliases == {"champion": "2", "previous": "1"}
    assert place.registry.rollback("toy")["version"] == 1
    assert place.aliases == {"champion": "1"}
    with pytest.raises(InputError, match="has no previous version to go back to"):
        place.registry.rollback("toy")
    assert place.promote(2)["version"] == 3, "it is registered already"
    assert place.aliases == {"champion": "3", "previous": "1"}


def test_rollback_goes_to_a_version_that_is_named(place: Place):
    for number in (0, 1, 2):
        place.promote(number)
    assert place.registry.rollback("toy", 1)["version"] == 1
    assert place.registry.rollback("toy", 3)["replaced"] == "1"
    assert place.aliases == {"champion": "3", "previous": "1"}
    again = place.registry.rollback("toy", 3)
    assert (again["version"], again["replaced"]) == (3, None)
    with pytest.raises(InputError, match="model 'toy' has no version '9'"):
        place.registry.rollback("toy", 9)
    with pytest.raises(InputError, match="no model 'gpt'"):
        place.registry.rollback("gpt")


def test_a_champion_that_was_deleted_does_not_block_rollback(place: Place):
    for number in (0, 1, 2):
        place.promote(number)
    place.registry.client.delete_model_version("toy", "3")
    assert place.aliases == {"previous": "2"}
    assert place.registry.rollback("toy")["version"] == 2
    place.registry.client.delete_model_version("toy", "1")
    assert place.registry.versions_of("toy")[0]["aliases"] == ["champion"]
    assert place.aliases == {"champion": "2"}, "previous goes with its version"


def test_a_model_of_an_earlier_version_has_its_aliases_for_a_history(place: Place):
    client = place.registry.client
    for number in (0, 1):
        place.promote(number)
    forget(client)
    assert place.moves == []
    assert place.registry.models() == [{"model": "toy", "versions": 2, "champion": "2", "previous": "1"}]
    assert place.moves == [], "looking changes nothing"
    assert place.promote(2)["replaced"] == "2"
    assert [place.registry.rollback("toy")["version"] for _ in range(2)] == [2, 1]
    forget(client)
    client.set_registered_model_alias("toy", "previous", "2")
    client.delete_registered_model_alias("toy", "champion")
    assert place.registry.rollback("toy")["version"] == 2, "without a champion"


def forget(client: Any) -> None:
    """Removes the history."""
    for key in client.get_registered_model("toy").tags:
        client.delete_registered_model_tag("toy", key)


def test_an_alias_that_was_moved_by_hand_is_part_of_the_history(place: Place):
    for number in (0, 1):
        place.promote(number)
    place.registry.client.set_registered_model_alias("toy", "champion", "1")
    place.registry.versions_of("toy")
    assert place.moves[-1].kind is Kind.FOUND
    assert place.aliases == {"champion": "1", "previous": "2"}
    assert place.registry.rollback("toy")["version"] == 2


# -- identity ------------------------------------------------------------------------------------------------


def test_the_same_name_in_a_new_ledger_is_another_sweep(place: Place, tmp_path: Path):
    """Storage and ledger were deleted, and the sweep ran again under its name, with other epochs."""
    first = place.promote(0)
    spec, ledger = swept(tmp_path / "again", epochs=3, trials=1, tracking=str(place.registry.uri))
    give_run(place, ledger)
    second = place.registry.promote(spec, ledger, None, 0)
    assert (first["trial"], second["trial"]) == ("t/0", "t/0")
    assert (second["version"], second["replaced"]) == (2, "1")
    assert place.promote(0)["version"] == 1, "the first is still the first sweep's"
    assert place.registry.promote(spec, ledger, None, 0)["version"] == 2
    tags = place.registry.client.get_model_version("toy", "2").tags
    trial = ledger.trials[0].user_attrs
    assert tags["refsweep.sweep_id"] == ledger.record.id
    assert tags["refsweep.term"] == str(ledger.record.term)
    assert tags["refsweep.checkpoint_digest"] == trial["checkpoint_digest"]
    assert json.loads(tags["refsweep.files"]) == {}
    ledger.close()


def give_run(place: Place, ledger: Ledger, run: str | None = None) -> None:
    """Notes an MLflow run of trial 0, a new one, as a driver or `sync` would write it."""
    client = place.registry.client
    experiment = client.get_experiment_by_name("toy").experiment_id
    ledger._attributes["run:0"] = run or client.create_run(experiment).info.run_id
    ledger._record = None


def test_a_version_of_before_ids_belongs_to_the_trial_of_its_run(place: Place):
    version = str(place.promote(0)["version"])
    client = place.registry.client
    run = client.get_model_version("toy", version).run_id
    client.delete_model_version_tag("toy", version, "refsweep.sweep_id")
    give_run(place, place.ledger, run)
    assert place.promote(0)["version"] == int(version)
    client.set_model_version_tag("toy", version, "refsweep.trial", "t/1")
    assert place.promote(0)["version"] == int(version) + 1, "the run alone is not enough"


def test_a_run_that_was_deleted_is_made_again_and_sync_finds_it(place: Place):
    client, lost = place.registry.client, place.ledger.record.run_ids[0]
    client.delete_run(lost)
    run = place.promote(0)["run_id"]
    assert run != lost
    made = client.get_run(run)
    assert made.data.tags["refsweep.trial"] == "t/0"
    assert made.data.metrics["loss"] == place.ledger.trials[0].values[0]
    assert place.promote(0)["run_id"] == run
    with find_sweep(place.spec.ledger_url, "t") as sweep:
        sweep.spec = place.spec
        assert sweep.sync()["deleted"] == 0
        assert sweep.ledger.record.run_ids[0] == run


def test_a_sweep_without_an_id_is_promoted_by_its_runs(place: Place):
    """One that no driver has run since sweeps have ids."""
    del place.ledger._attributes["id"]
    place.ledger._record = None
    assert [place.promote(0)["version"] for _ in range(2)] == [1, 1]
    place.registry.client.delete_run(place.ledger.record.run_ids[1])
    with pytest.raises(InputError, match=r"^trial t/1 has no MLflow run: `refsweep sweep sync t` makes it$"):
        place.promote(1)


# -- several at once, and duplicates -------------------------------------------------------------------------


def at_once(place: Place, numbers: list[int]) -> list[dict[str, Any] | WorkFailedError]:
    """What promotions that begin at the same moment come to, each with a client of its own."""
    barrier, found = threading.Barrier(len(numbers)), list[Any]()

    def promote(number: int) -> None:
        registry = Registry(place.registry.uri)
        _ = registry.client
        barrier.wait()
        try:
            found.append(registry.promote(place.spec, place.ledger, None, number))
        except WorkFailedError as error:
            found.append(error)

    threads = [threading.Thread(target=promote, args=(number,)) for number in numbers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def in_order(place: Place) -> list[str]:
    """The champions so far, after all that must hold of history and aliases."""
    place.registry.versions_of("toy")
    past, aliases = champions(place.moves), place.aliases
    assert not [move for move in place.moves if move.state is Phase.OPEN]
    assert past[-1] == aliases["champion"]
    assert aliases.get("previous") == next((v for v in reversed(past[:-1]) if v != past[-1]), None)
    return past


def test_promotions_of_one_trial_at_once_make_one_version(place: Place):
    found = at_once(place, [0, 0, 0, 0])
    assert not [error for error in found if isinstance(error, WorkFailedError)]
    assert [v["version"] for v in place.registry.versions_of("toy")] == [1]
    assert in_order(place) == ["1"]


def test_of_promotions_of_several_trials_at_once_all_but_the_champion_say_who_it_is(place: Place):
    found = at_once(place, [0, 1, 2])
    past = in_order(place)
    versions = {v["trial"]: v["version"] for v in place.registry.versions_of("toy")}
    assert sorted(versions) == ["t/0", "t/1", "t/2"]
    for result in found:
        if isinstance(result, WorkFailedError):
            assert "is not champion: version" in str(result)
    assert set(past) <= {str(v) for v in versions.values()}


def test_a_promotion_that_is_overtaken_says_by_whom(place: Place, monkeypatch: pytest.MonkeyPatch):
    place.promote(0)
    place.promote(1)
    other, client = Registry(place.registry.uri), place.registry.client
    move = client.set_registered_model_alias

    def overtaken(model: str, alias: str, version: str) -> None:
        move(model, alias, version)
        if alias == "champion":
            other.rollback("toy", 1)

    monkeypatch.setattr(client, "set_registered_model_alias", overtaken)
    with pytest.raises(WorkFailedError, match="toy version 3 is not champion: version 1 is, moved there at the same"):
        place.promote(2)
    monkeypatch.undo()
    assert in_order(place)[-1] == "1"


def test_of_two_versions_of_one_trial_the_first_counts_and_the_other_is_removed(place: Place):
    place.promote(0)
    client = place.registry.client
    first = client.get_model_version("toy", "1")
    source = client.get_model_version_download_uri("toy", "1")
    client.create_model_version("toy", source, run_id=first.run_id, tags=first.tags)
    place.promote(1)
    client.create_model_version("toy", source, run_id=first.run_id, tags=first.tags)
    assert [v["version"] for v in place.registry.versions_of("toy")] == [3, 1]
    assert place.promote(0)["version"] == 1


# -- errors are not absence ----------------------------------------------------------------------------------


@pytest.mark.parametrize("code", ["INTERNAL_ERROR", "ENDPOINT_NOT_FOUND", "TEMPORARILY_UNAVAILABLE"])
def test_an_error_of_the_server_is_not_taken_for_absence(place: Place, code: str, monkeypatch: pytest.MonkeyPatch):
    for number in (0, 1):
        place.promote(number)
    before, moves = place.aliases, place.moves

    def away(*_: Any, **__: Any) -> Any:
        raise MlflowException("the server is away\nwith a page of HTML", error_code(code))

    for name in ("get_registered_model", "search_model_versions"):
        with monkeypatch.context() as patch:
            patch.setattr(place.registry.client, name, away)
            for command in (lambda: place.promote(2), lambda: place.registry.rollback("toy"), place.registry.models):
                with pytest.raises(WorkFailedError, match=r"^MLflow: .*the server is away$"):
                    command()
    assert (place.aliases, place.moves) == (before, moves)


def error_code(name: str) -> int:
    from mlflow.protos.databricks_pb2 import ErrorCode

    return int(ErrorCode.Value(name))


def test_who_may_not_write_may_still_look(place: Place, monkeypatch: pytest.MonkeyPatch):
    for number in (0, 1):
        place.promote(number)
    place.registry.client.delete_registered_model_alias("toy", "previous")

    def refused(*_: Any, **__: Any) -> Any:
        raise MlflowException("may not write", error_code("PERMISSION_DENIED"))

    monkeypatch.setattr(place.registry.client, "set_registered_model_alias", refused)
    assert [v["version"] for v in place.registry.versions_of("toy")] == [2, 1]
    assert place.registry.resolve("toy") == ("toy", "2")
    with pytest.raises(WorkFailedError, match="may not write"):
        place.promote(2)


def test_every_page_of_a_listing_is_read(place: Place, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(catalogue, "PAGE", 2)
    for number in (0, 1, 2):
        place.promote(number)
    for name in "abcd":
        place.registry.client.create_registered_model(name)
    assert [m["model"] for m in place.registry.models()] == [*"abcd", "toy"]
    assert place.registry.models()[-1]["versions"] == 3
    with pytest.raises(InputError, match=r"^model 'a' has no version$"):
        place.registry.versions_of("a")
    assert place.registry.resolve("toy/1") == ("toy", "1")
    assert place.promote(0)["version"] == 1, "it is on the second page"


# -- what is promoted is what was measured -------------------------------------------------------------------


def files(place: Place, number: int) -> Path:
    """The folder of the checkpoint that a trial was measured with."""
    return Path(place.spec.storage) / "t" / str(number) / str(place.ledger.trials[number].user_attrs["checkpoint_name"])


def checkpoints(place: Place, number: int) -> Checkpoints:
    from refsweep.orchestration.spec.folders import trial_folder

    return Checkpoints(trial_folder(place.spec, number))


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("model.safetensors", r"model.safetensors or state.pt in .*epoch-0002.1 is missing or not what was measured"),
        ("state.pt", r"model.safetensors or state.pt in .*epoch-0002.1 is missing or not what was measured"),
        ("manifest.json", r"manifest.json is not the one that was recorded when the trial was measured"),
    ],
)
def test_a_flipped_bit_in_the_measured_checkpoint_refuses_promotion(place: Place, file: str, message: str):
    path = files(place, 0) / file
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"trial t/0 is not promoted: .*{message}"):
        place.promote(0)
    assert place.promote(1)["version"] == 1


def test_a_missing_checkpoint_refuses_promotion_though_there_are_others(place: Place):
    shutil.rmtree(files(place, 0))
    assert checkpoints(place, 0).newest() is not None
    with pytest.raises(InputError, match=r"the checkpoint that was measured is missing: .*epoch-0002\.1"):
        place.promote(0)


def test_a_later_attempt_that_wrote_the_same_epoch_is_not_promoted(place: Place):
    shutil.copytree(files(place, 0), files(place, 0).with_name("epoch-0002.2"))
    shutil.rmtree(files(place, 0))
    with pytest.raises(InputError, match="the checkpoint that was measured is missing"):
        place.promote(0)


def test_a_trial_of_before_is_promoted_from_its_recorded_epoch_alone(place: Place):
    attributes = place.ledger.trials[0].user_attrs
    damaged = files(place, 0) / "model.safetensors"
    del attributes["checkpoint_name"], attributes["checkpoint_digest"]
    assert place.promote(0)["version"] == 1
    place.registry.client.delete_model_version("toy", "1")
    damaged.write_bytes(damaged.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"checkpoint epoch-0002 is missing or damaged, the newest is epoch-0001"):
        place.promote(0)


def test_a_checkpoint_whose_value_is_not_the_ledgers_is_not_promoted(place: Place):
    trial = place.ledger.trials[0]
    del trial.user_attrs["checkpoint_name"]
    trial.values = [trial.values[0] + 1e-6]
    with pytest.raises(InputError, match="its checkpoint is not the one that was measured, loss "):
        place.promote(0)


# -- other stores, and the command line ----------------------------------------------------------------------


def test_a_store_of_plain_files_behaves_alike(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    shutil.copytree(made, tmp_path / "out")
    for place in opened(tmp_path / "out", (tmp_path / "mlruns").as_uri()):
        backwards_and_forwards(place)


def test_promote_roll_back_and_name_from_the_command_line(place: Place):
    for number in (0, 1, 2):
        place.promote(number)
    uri = ["--tracking", place.registry.uri, "--json"]

    def command(*words: str) -> dict[str, Any]:
        done = CliRunner().invoke(app, [*words, *uri])
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return dict(json.loads(done.stdout)) if done.exit_code == 0 else {"code": done.exit_code}

    assert command("rollback", "toy")["version"] == 2
    assert command("rollback", "toy", "--to", "3")["replaced"] == "2"
    assert command("list")["models"] == [{"model": "toy", "versions": 3, "champion": "3", "previous": "2"}]
    assert [v["aliases"] for v in command("show", "toy")["versions"]] == [["champion"], ["previous"], []]
    with pytest.raises(InputError, match="model 'toy' has no version '7'; there are: 1, 2, 3"):
        command("rollback", "toy", "--to", "7")
    assert command("rollback", "toy", "--to", "0") == {"code": 2}


@pytest.mark.parametrize("name", ["{folder}/toy", "./toy", "toy", "out/3", "../{base}/toy"])
def test_a_package_is_found_by_every_form_of_its_folder(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    package = Package(trainable="toy", config={}, setting={}, facts={}, origin={}, weights={"w": torch.zeros(1)})
    for folder in ("toy", "out/3"):
        package.write(Store(str(tmp_path / folder)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert _package(name.format(folder=tmp_path, base=tmp_path.name), "./nowhere", None).trainable == "toy"
    with pytest.raises(InputError, match=r"no MLflow at .*nowhere"):
        _package("other", "./nowhere", None)


def test_a_registered_model_comes_before_a_folder_of_its_name(place: Place, monkeypatch: pytest.MonkeyPatch):
    place.promote(0)
    monkeypatch.setattr(Registry, "fetch", lambda self, name, folder: (f"version {self.resolve(name)[1]}", folder))
    monkeypatch.chdir(place.spec.storage)
    Path("toy").mkdir()
    (Path("toy") / "package.json").write_text("{}")
    assert str(_package("toy", ".", place.registry.uri)) == "version 1"
    with pytest.raises(InputError, match=r"toy@best|no version with the alias 'best'"):
        _package("toy@best", ".", place.registry.uri)
