"""A small iKUN from sweep to champion to video: what is registered is what was measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import mlflow
import pytest
from refsweep.datasets.layouts.refer_kitti import ReferKitti
from refsweep.datasets.problems import InputError
from refsweep.datasets.storage.store import Store
from refsweep.orchestration.evaluate import evaluate
from refsweep.orchestration.execution.tune import TuneBackend
from refsweep.orchestration.ledger.ledger import Ledger
from refsweep.orchestration.ledger.records import SweepState
from refsweep.orchestration.registry.registry import Registry
from refsweep.orchestration.spec.read import make_spec
from refsweep.orchestration.spec.schema import SweepSpec
from refsweep.orchestration.sweep import Outcome, open_sweep
from refsweep.orchestration.track import track
from refsweep.trainables.training.package import Package


@dataclass
class Swept:
    """A finished sweep of two trials."""

    spec: SweepSpec
    ledger: Ledger
    data: str
    registry: Registry


@pytest.fixture(scope="module")
def swept(made: Path, tmp_path_factory: pytest.TempPathFactory, ray_local: None) -> Iterator[Swept]:
    storage = tmp_path_factory.mktemp("models")
    small = {"tower": "conv-tiny", "weights": None, "crop_px": 16, "frame_px": 32, "feature_dim": 16, "geometry": True}
    spec = make_spec(
        {
            "name": "small",
            "trainable": "ikun",
            "data": str(made),
            "storage": str(storage),
            "objective": {"metric": "hota", "mode": "max"},
            "search": {"trials": 2, "sampler": "random", "pruner": "none"},
            "resources": {"max_concurrent": 2},
            "fixed": {**small, "epochs": 2, "batch": 8, "ema": 0.9},
        }
    )
    with open_sweep(spec) as sweep:
        outcome = sweep.run(TuneBackend(lambda: None, lambda _: None))
        assert outcome == Outcome(SweepState.FINISHED)
        yield Swept(sweep.spec, sweep.ledger, str(made), Registry(str(sweep.spec.tracking_uri)))


@pytest.fixture(scope="module")
def promoted(swept: Swept) -> dict[str, Any]:
    return swept.registry.promote(swept.spec, swept.ledger, swept.data)


@pytest.fixture
def champion(swept: Swept, promoted: dict[str, Any], tmp_path: Path) -> tuple[Package, Path]:
    return swept.registry.fetch("ikun", tmp_path)


def test_both_trials_trained_and_were_measured(swept: Swept):
    assert [t.state.name for t in swept.ledger.trials] == ["COMPLETE", "COMPLETE"]
    for trial in swept.ledger.trials:
        assert set(trial.user_attrs["setting"]) == {"a", "tau", "threshold"}
        assert 0 <= trial.values[0] <= 100


def test_the_champion_is_the_best_trial_and_measures_what_the_ledger_says(
    swept: Swept, promoted: dict[str, Any], champion: tuple[Package, Path]
):
    best = swept.ledger.best()
    assert best is not None
    assert promoted["trial"] == f"small/{best.number}"
    assert promoted["aliases"] == ["champion"]
    assert promoted["run_id"] == swept.ledger.record.run_ids.get(best.number)
    figures = evaluate(champion[0], swept.data, "validation")
    assert figures["hota"] == pytest.approx(best.values[0], abs=1e-6)
    assert champion[0].setting == pytest.approx(best.user_attrs["setting"])


def test_promotion_moves_the_alias_and_rollback_moves_it_back(swept: Swept, promoted: dict[str, Any]):
    registry, first = swept.registry, promoted["version"]
    other = 1 - int(promoted["trial"].rpartition("/")[2])
    assert registry.promote(swept.spec, swept.ledger, swept.data)["version"] == first, "registered once"
    with pytest.raises(InputError, match="has no previous version to go back to"):
        registry.rollback("ikun")
    second = registry.promote(swept.spec, swept.ledger, swept.data, other)
    assert (second["replaced"], second["aliases"]) == (str(first), ["champion"])
    aliases = {v["version"]: v["aliases"] for v in registry.versions_of("ikun")}
    assert aliases == {second["version"]: ["champion"], first: ["previous"]}
    assert registry.resolve("ikun@previous") == ("ikun", str(first))
    back = registry.rollback("ikun")
    assert (back["version"], back["aliases"]) == (first, ["champion"])
    with pytest.raises(InputError, match="has no previous version to go back to"):
        registry.rollback("ikun")
    assert registry.resolve(f"ikun/{second['version']}") == ("ikun", str(second["version"]))


@pytest.mark.parametrize(
    ("name", "message"),
    [("gpt", "no model 'gpt' in .*; there are: ikun"), ("ikun/9", "no version '9'"), ("ikun@x", "with the alias 'x'")],
)
@pytest.mark.usefixtures("promoted")
def test_a_model_that_is_not_there_is_bad_input(name: str, message: str, swept: Swept, tmp_path: Path):
    with pytest.raises(InputError, match=message):
        swept.registry.fetch(name, tmp_path)


@pytest.mark.parametrize("set_by_user", [None, "sqlite:////elsewhere/mlflow.db"])
@pytest.mark.usefixtures("promoted")
def test_mlflows_settings_are_left_as_they_were(
    set_by_user: str | None, swept: Swept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
        monkeypatch.delenv(name, raising=False)
        if set_by_user is not None:
            monkeypatch.setenv(name, set_by_user)
    before = dict(os.environ)
    swept.registry.fetch("ikun", tmp_path)
    after = {k: v for k, v in os.environ.items() if k != "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"}
    assert after == {k: v for k, v in before.items() if k != "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"}
    if set_by_user is None:
        assert not mlflow.is_tracking_uri_set()
    else:
        assert mlflow.get_tracking_uri() == mlflow.get_registry_uri() == set_by_user


@pytest.mark.usefixtures("promoted")
def test_a_trial_that_is_not_completed_is_not_promoted(swept: Swept):
    with pytest.raises(InputError, match=r"trial must be a completed one \(0, 1\), got 7"):
        swept.registry.promote(swept.spec, swept.ledger, swept.data, 7)


def test_a_version_holds_no_pickle_and_all_that_a_server_needs(champion: tuple[Package, Path]):
    _, folder = champion
    names = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert not [n for n in names if n.endswith((".pkl", ".pickle", ".pt", ".pth"))]
    assert {"MLmodel", "requirements.txt", "input_example.json", "artifacts/package/model.safetensors"} <= names
    assert any(n.startswith("artifacts/wheel/refsweep-") and n.endswith("-py3-none-any.whl") for n in names)
    described = (folder / "MLmodel").read_text()
    assert "signature:" in described
    assert "loader_module: mlflow.pyfunc.loaders.code_model" in described
    assert all("==" in line for line in (folder / "requirements.txt").read_text().split())


def stored_files(swept: Swept, promoted: dict[str, Any]) -> list[Path]:
    """Of the promoted version, where MLflow keeps them."""
    uri = swept.registry.client.get_model_version_download_uri("ikun", promoted["version"])
    return sorted(path for path in Path(uri.removeprefix("file://")).rglob("*") if path.is_file())


def test_a_version_is_refused_when_any_of_its_files_has_another_bit(
    swept: Swept, promoted: dict[str, Any], tmp_path: Path
):
    files = stored_files(swept, promoted)
    assert {"MLmodel", "pyfunc.py", "model.safetensors", "package.json", "requirements.txt"} <= {f.name for f in files}
    for number, file in enumerate(files):
        content = file.read_bytes()
        changed = bytearray(content)
        changed[len(changed) // 2] ^= 1
        file.write_bytes(changed)
        (tmp_path / str(number)).mkdir()
        with pytest.raises(
            InputError, match=rf"^model ikun version \d+ is not what was registered: .*{file.name} chan"
        ):
            swept.registry.fetch(f"ikun/{promoted['version']}", tmp_path / str(number))
        file.write_bytes(content)
    weights = next(file for file in files if file.name == "model.safetensors")
    content = weights.read_bytes()
    weights.unlink()
    (tmp_path / "missing").mkdir()
    with pytest.raises(InputError, match=r"is not what was registered: artifacts/package/model.safetensors missing"):
        swept.registry.fetch(f"ikun/{promoted['version']}", tmp_path / "missing")
    weights.write_bytes(content)


def test_a_version_is_fetched_in_place_of_another(swept: Swept, promoted: dict[str, Any], tmp_path: Path):
    name = f"ikun/{promoted['version']}"
    _, folder = swept.registry.fetch(name, tmp_path)
    (folder / "artifacts" / "wheel" / "earlier.whl").write_bytes(b"")
    (folder / "tracked.mp4").write_bytes(b"of the user")
    assert swept.registry.fetch(name, tmp_path)[0].trainable == "ikun"
    assert (folder / "tracked.mp4").exists()


def test_a_version_of_before_digests_is_loaded(swept: Swept, promoted: dict[str, Any], tmp_path: Path):
    client, version = swept.registry.client, str(promoted["version"])
    digests = client.get_model_version("ikun", version).tags["refsweep.files"]
    client.delete_model_version_tag("ikun", version, "refsweep.files")
    assert swept.registry.fetch(f"ikun/{version}", tmp_path)[0].trainable == "ikun"
    client.set_model_version_tag("ikun", version, "refsweep.files", digests)


@pytest.mark.parametrize(
    "name",
    [
        "artifacts/package/model.safetensors",
        "artifacts/package/package.json",
        "artifacts/wheel/refsweep-*.whl",
        "artifacts/wheel/another.whl",
        "pyfunc.py",
    ],
)
def test_a_pyfunc_is_not_loaded_from_files_that_were_changed(name: str, champion: tuple[Package, Path]):
    _, folder = champion
    assert mlflow.pyfunc.load_model(str(folder)).unwrap_python_model() is not None
    file = next(folder.glob(name), folder / name)
    file.write_bytes((file.read_bytes() if file.exists() else b"") + b"\n")
    with pytest.raises(ValueError, match=rf"^this model is not what was registered: .*{file.name} changed, missing"):
        mlflow.pyfunc.load_model(str(folder))


def test_a_server_without_our_package_answers_from_the_wheel_as_we_do(champion: tuple[Package, Path]):
    import pandas as pd
    from refsweep.trainables.ikun import task as ikun

    package, folder = champion
    example = json.loads((folder / "input_example.json").read_text())
    rows = pd.DataFrame(**example) if "columns" in example else pd.DataFrame(example)
    ours = ikun.serve(package).predict({c: rows[c].tolist() for c in rows})
    code = """
import json, sys
sys.meta_path = [f for f in sys.meta_path if "refsweep" not in str(f)]  # the checkout is not installed here
sys.path = [p for p in sys.path if "refsweep" not in p or "site-packages" in p]
import mlflow
try:
    import refsweep
    raise SystemExit("it is installed")
except ImportError:
    pass
from mlflow.models.utils import load_serving_example
model = mlflow.pyfunc.load_model(sys.argv[1])
answer = model.predict(model.input_example)
import refsweep
print(json.dumps([refsweep.__file__, answer["score"].tolist(), answer["refers"].tolist()]))
"""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-c", code, str(folder)]
    out = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment)
    assert out.returncode == 0, out.stderr[-3000:]
    place, score, refers = json.loads(out.stdout.splitlines()[-1])
    assert not Path(place).is_relative_to(Path(__file__).parents[2])
    assert score == pytest.approx(ours["score"], abs=1e-6)
    assert refers == ours["refers"]


def test_expressions_are_followed_through_a_video(swept: Swept, champion: tuple[Package, Path], tmp_path: Path):
    source = ReferKitti(Store(swept.data))
    video = source.videos("test")[0]
    texts = [e.replace("-", " ") for e in source.expressions(video)[:2]]
    out = tmp_path / "new" / "tracked.mp4"
    found = track(champion[0], swept.data, video, texts, out)
    assert [f["expression"] for f in found["found"]] == texts
    with av.open(str(out)) as container:
        frames = sum(1 for _ in container.decode(video=0))
    assert frames == found["frames"] == source.n_frames(video)


@pytest.mark.parametrize(("video", "text", "message"), [("9999", "cars", "no frames of video"), (None, "  ", "empty")])
def test_a_video_or_expression_that_is_none_is_bad_input(
    video: str | None, text: str, message: str, swept: Swept, champion: tuple[Package, Path], tmp_path: Path
):
    name = video or ReferKitti(Store(swept.data)).videos("test")[0]
    with pytest.raises(InputError, match=message):
        track(champion[0], swept.data, name, [text], tmp_path / "x.mp4")
