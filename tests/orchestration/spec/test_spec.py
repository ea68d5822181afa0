"""What a person may write, what is refused and how, and what may change when a sweep is run again."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from refsweep.datasets.problems import InputError
from refsweep.orchestration.spec.check import epochs_of
from refsweep.orchestration.spec.read import differences, make_spec, override, read_spec
from refsweep.orchestration.spec.reference import reference
from refsweep.orchestration.sweep import check_spec
from refsweep.trainables import discovery

LEAST: dict[str, Any] = {
    "name": "small",
    "trainable": "toy",
    "data": "none",
    "objective": {"metric": "loss", "mode": "min"},
}
FULL = """
name: ikun-kum.2_b
trainable: ikun
data: s3://frames/refer-kitti
storage: s3://sweeps
ledger: postgresql://me@db:5432/sweeps
tracking: http://mlflow:5000
objective: {metric: hota, mode: max}
search:
  trials: 6
  sampler: grid
  pruner: hyperband
  seed: 7
  startup: 4
  min_epochs: 2
  eta: 2
  grid: {lr: [1.0e-5, 1.0e-4], kum_mode: [cascade, null], text_tokens: [8]}
stream: ray
fixed: {epochs: 30, weights: null, calibration_a: [0, 8]}
resources: {workers: 1, gpus_per_worker: 1, cpus_per_worker: 4, trials_per_gpu: 2, max_concurrent: 3, wait_s: 600}
budget: {gpu_hours: 200, cpu_hours: 10.5, wall_hours: 48}
retry: {max_retries: 0, halt_after_same_error: 1, hang_s: 60}
"""
DEFAULTS = """
storage: ./refsweep-out
ledger: null
tracking: null
search: {trials: 64, sampler: tpe, pruner: asha, seed: 0, startup: null, min_epochs: 1, eta: 3, grid: null}
stream: auto
fixed: {}
resources: {workers: 1, gpus_per_worker: null, cpus_per_worker: 1, trials_per_gpu: 1, max_concurrent: auto, wait_s: 0}
budget: {gpu_hours: null, cpu_hours: null, wall_hours: null}
retry: {max_retries: 3, halt_after_same_error: 3, hang_s: 1800.0}
"""
TWO = [{"metric": "loss", "mode": "min"}, {"metric": "height", "mode": "max"}]


def with_(**fields: Any) -> dict[str, Any]:
    return {**copy.deepcopy(LEAST), **fields}


def problems_of(content: Any) -> list[str]:
    """The lines of the error, without the first, which names the file."""
    with pytest.raises(InputError) as caught:
        check_spec(content, "my.yaml")
    first, *lines = str(caught.value).splitlines()
    assert first == "my.yaml:"
    assert all(line.startswith("  ") for line in lines)
    return [line.strip() for line in lines]


def test_a_full_spec_is_taken_field_by_field():
    content = yaml.safe_load(FULL)
    spec = make_spec(content)
    assert spec.as_json() == content
    assert [(o.metric, o.mode) for o in spec.objectives] == [("hota", "max")]
    assert spec.ledger_url == "postgresql://me@db:5432/sweeps"
    assert spec.tracking_uri == "http://mlflow:5000"
    assert epochs_of(spec) == 30
    assert spec.planned_trials == 4, "a grid has no more trials than cells"


def test_the_least_spec_has_the_documented_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    spec = make_spec(LEAST)
    assert spec.as_json() == {**LEAST, **yaml.safe_load(DEFAULTS)}
    assert spec.ledger_url == f"sqlite:///{tmp_path}/refsweep-out/ledger.db"
    assert spec.tracking_uri == f"sqlite:///{tmp_path}/refsweep-out/mlflow.db"
    assert spec.planned_trials == 64
    assert epochs_of(spec) == 6


def test_tracking_none_is_no_mlflow():
    assert make_spec(with_(tracking="none")).tracking_uri is None


@pytest.mark.parametrize(
    "fields",
    [
        {"objective": TWO, "search": {"pruner": "none"}},
        {"resources": {"gpus_per_worker": 1, "max_concurrent": 2}, "budget": {"gpu_hours": 1}, "retry": {"hang_s": 5}},
        {"search": {"sampler": "grid", "grid": {"x": [1, 2.5], "y": [True, None, "a"]}}},
    ],
)
def test_a_spec_read_back_from_the_ledger_is_the_same(fields: dict[str, Any]):
    spec = make_spec(with_(**fields))
    assert make_spec(json.loads(json.dumps(spec.as_json()))) == spec


def test_a_number_that_json_lacks_is_refused_or_kept():
    try:
        spec = make_spec(with_(retry={"hang_s": float("inf")}))
    except InputError:
        return
    assert make_spec(spec.as_json()) == spec


# (fields, path, rule or choices, value); each is one problem on one line
BAD: list[tuple[dict[str, Any], str, str, str]] = [
    ({"nonsense": 1}, "nonsense", "unknown key", ""),
    ({"search": {"nonsense": 1}}, "search.nonsense", "unknown key", ""),
    ({"objective": {"metric": "loss", "mode": "min", "weight": 1}}, "objective.weight", "unknown key", ""),
    ({"search": {"trials": "many"}}, "search.trials", "integer", "'many'"),
    ({"search": {"trials": True}}, "search.trials", "integer", "True"),
    ({"search": {"trials": 2.0}}, "search.trials", "integer", "2.0"),
    ({"search": None}, "search", "dictionary", "None"),
    ({"fixed": [1]}, "fixed", "dictionary", "[1]"),
    ({"data": 5}, "data", "string", "5"),
    ({"budget": {"gpu_hours": True}}, "budget.gpu_hours", "number", "True"),
    ({"trainable": "gpt", "data": "x"}, "trainable", f"one of {', '.join(discovery.names())}", "'gpt'"),
    ({"search": {"sampler": "bo"}}, "search.sampler", "'gp', 'grid', 'nsga2', 'qmc', 'random' or 'tpe'", "'bo'"),
    (
        {"search": {"pruner": "asah"}},
        "search.pruner",
        "must be one of 'asha', 'hyperband', 'median' or 'none'",
        "'asah'",
    ),
    ({"stream": "dask"}, "stream", "'auto', 'threads' or 'ray'", "'dask'"),
    ({"fixed": {"z": 1}}, "fixed", "z is no field of toy's Config: accumulate, amp, batch,", ""),
    ({"fixed": {"epochs": "six"}}, "fixed", "epochs must be a whole number", "'six'"),
    ({"fixed": {"epochs": True}}, "fixed", "epochs must be a whole number", "True"),
    ({"fixed": {"x": 9.0}}, "fixed", "x must be in -5..5", "9.0"),
    ({"fixed": {"fail_with": "x"}}, "fixed", "fail_with must be one of error, oom,", "'x'"),
    ({"objective": {"metric": "hota", "mode": "min"}}, "objective", "metric must be one of loss, height", "'hota'"),
    ({"objective": {"metric": "loss", "mode": "up"}}, "objective.mode", "'min' or 'max'", "'up'"),
    ({"objective": {"metric": "loss"}}, "objective.mode", "must be given", ""),
    ({"objective": []}, "objective", "at least one metric", ""),
    ({"objective": TWO}, "search.pruner", "must be none with several objectives", "asha"),
    ({"objective": TWO, "search": {"pruner": "none", "sampler": "cmaes"}}, "search.sampler", "one objective; with", ""),
    ({"search": {"grid": {"x": [1.0]}}}, "search", "grid must be given with sampler grid, and with no other", ""),
    ({"search": {"sampler": "grid"}}, "search", "grid must be given with sampler grid, and with no other", ""),
    ({"search": {"sampler": "grid", "grid": {"x": []}}}, "search", "at least one value of every parameter", ""),
    ({"search": {"sampler": "grid", "grid": {}}}, "search", "grid", ""),
    ({"ledger": "postgresql://me:secret@db/s"}, "ledger", "not contain a password: use PGPASSFILE", ""),
    (
        {"ledger": "postgresql://db/s?user=me&password=secret"},
        "ledger",
        "must not contain a password: use PGPASSFILE",
        "",
    ),
    ({"ledger": "mysql://db/s"}, "ledger", "must be sqlite:///FILE or postgresql://HOST/DB", "mysql://..."),
    ({"tracking": "http://me:secret@mlflow:5000"}, "tracking", "no user or password: use MLFLOW_TRACKING_USERNAME", ""),
    ({"storage": "s3://b", "tracking": "none"}, "ledger", "must be given with s3:// storage", ""),
    ({"storage": "s3://b", "ledger": "postgresql://db/s"}, "tracking", "must be given with s3:// storage", ""),
    ({"trainable": "ikun", "objective": {"metric": "auc", "mode": "max"}}, "data", "ikun needs data", "none"),
    ({"name": "My sweep"}, "name", "lower-case letters, digits, dots, dashes and underscores", "'My sweep'"),
    ({"name": "../x"}, "name", "lower-case letters", "'../x'"),
    ({"name": "x\n"}, "name", "lower-case letters", "'x\\n'"),
    ({"search": {"trials": 0}}, "search.trials", "greater than or equal to 1", "0"),
    ({"search": {"eta": 1}}, "search.eta", "greater than or equal to 2", "1"),
    ({"search": {"seed": -1}}, "search.seed", "greater than or equal to 0", "-1"),
    ({"resources": {"max_concurrent": 0}}, "resources.max_concurrent", "must be >= 1 or auto", "0"),
    ({"resources": {"max_concurrent": "some"}}, "resources.max_concurrent", "auto", "'some'"),
    ({"resources": {"workers": 0}}, "resources.workers", "must be a number >= 1, or [least, most]", "0"),
    ({"resources": {"workers": [4, 2]}}, "resources.workers", "with 1 <= least <= most", "[4, 2]"),
    ({"resources": {"workers": [1, 2, 3]}}, "resources.workers", "[least, most]", "[1, 2, 3]"),
    ({"resources": {"wait_s": -1}}, "resources.wait_s", "greater than or equal to 0", "-1.0"),
    ({"resources": {"cpus_per_worker": 0}}, "resources.cpus_per_worker", "greater than or equal to 1", "0"),
    ({"budget": {"gpu_hours": 0}}, "budget.gpu_hours", "greater than 0", "0.0"),
    ({"retry": {"hang_s": -1}}, "retry.hang_s", "greater than 0", "-1.0"),
]


@pytest.mark.parametrize(("fields", "path", "rule", "value"), BAD, ids=[json.dumps(b[0]) for b in BAD])
def test_a_problem_is_said_with_its_path_its_rule_and_its_value(
    fields: dict[str, Any], path: str, rule: str, value: str
):
    lines = problems_of(with_(**fields))
    assert len(lines) == 1, lines
    assert re.fullmatch(rf"{re.escape(path)}: .*{re.escape(rule)}.*", lines[0])
    assert lines[0].endswith(f"got {value}") if value else "pydantic" not in lines[0]
    assert "secret" not in lines[0]


@pytest.mark.parametrize("name", LEAST)
def test_what_has_no_default_must_be_given(name: str):
    content = {key: value for key, value in LEAST.items() if key != name}
    assert problems_of(content) == [f"{name}: must be given"]


def test_problems_are_said_all_at_once():
    lines = problems_of(
        with_(name="A", stream="x", nonsense=1, search={"trials": 0, "sampler": "bo"}, retry={"hang_s": 0})
    )
    paths = ["name", "nonsense", "retry.hang_s", "search.sampler", "search.trials", "stream"]
    assert sorted(line.partition(":")[0] for line in lines) == paths
    lines = problems_of(
        with_(fixed={"z": 1, "epochs": "six"}, objective=[*TWO], ledger="mysql://x/y", storage="s3://b")
    )
    assert [line.partition(":")[0] for line in lines] == ["tracking", "ledger", "fixed", "fixed", "search.pruner"]


def test_problems_of_one_field_and_of_fields_together_are_said_at_once():
    lines = problems_of(with_(search={"trials": 0}, trainable="gpt"))
    assert sorted(line.partition(":")[0] for line in lines) == ["search.trials", "trainable"]
    search = {"sampler": "bo", "pruner": "asah", "seed": -1}
    lines = problems_of(with_(name="A", data=5, objective={"metric": "loss", "mode": "up"}, search=search))
    paths = ["data", "name", "objective.mode", "search.pruner", "search.sampler", "search.seed"]
    assert sorted(line.partition(":")[0] for line in lines) == paths
    lines = problems_of(with_(name="A", search={"grid": {"x": [1.0]}}))
    assert sorted(line.partition(":")[0] for line in lines) == ["name", "search"]


def test_the_reference_of_the_spec_file_is_current():
    assert (Path(__file__).parents[3] / "docs" / "spec.md").read_text() == reference()


def test_a_file_is_read_with_overrides(tmp_path: Path):
    path = tmp_path / "spec.yaml"
    path.write_text(FULL)
    content = read_spec(str(path), ["search.trials=2", "storage=elsewhere"])
    assert content["search"]["trials"] == 2
    assert content["storage"] == "elsewhere"
    assert content["name"] == "ikun-kum.2_b"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no spec at {path}"),
        ("name: [a", "{path} is not YAML: "),
        ("a: !!python/object/apply:os.system ['true']", "{path} is not YAML: "),
        ("\x00", "{path} is not YAML: "),
        ("- a\n- b\n", "{path} must hold fields and their values"),
        ("", "{path} must hold fields and their values"),
    ],
)
def test_a_file_that_is_no_spec_is_bad_input(text: str | None, message: str, tmp_path: Path):
    path = tmp_path / "spec.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=re.escape(message.format(path=path))):
        read_spec(str(path))


def test_a_folder_or_bytes_in_place_of_a_file_are_bad_input(tmp_path: Path):
    (tmp_path / "image.yaml").write_bytes(b"\xff\xfe\x89PNG")
    for path in (tmp_path, tmp_path / "image.yaml"):
        with pytest.raises(InputError, match="is not YAML"):
            read_spec(str(path))


def test_an_override_sets_a_field_at_any_depth_and_makes_missing_parts():
    content = with_(search={"trials": 3, "seed": 1})
    before = copy.deepcopy(content)
    made = override(content, ["search.trials=5", "search.grid.x=[1, 2]", "budget.gpu_hours=0.5", "tracking=null"])
    assert made["search"] == {"trials": 5, "seed": 1, "grid": {"x": [1, 2]}}
    assert made["budget"] == {"gpu_hours": 0.5}
    assert made["tracking"] is None
    assert override(content, ["data=a=b"])["data"] == "a=b"
    assert override(content, ["search.seed=2", "search.seed=3"])["search"]["seed"] == 3
    assert content == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("search.trials", "--set must be FIELD=VALUE, got 'search.trials'"),
        ("=5", "--set must be FIELD=VALUE, got '=5'"),
        ("name.deep=5", "--set name.deep: name holds no fields"),
        ("data=[a", "--set 'data=[a': "),
    ],
)
def test_an_override_that_is_none_is_bad_input(text: str, message: str):
    with pytest.raises(InputError, match=re.escape(message)):
        override(LEAST, [text])


def changed(*overrides: str) -> list[str]:
    old = make_spec(LEAST).as_json()
    return differences(old, make_spec(override(old, overrides)).as_json())


def test_a_spec_may_change_in_what_does_not_change_its_trials():
    assert changed() == []
    free = ["search.trials=9", "budget.gpu_hours=1", "resources.cpus_per_worker=2", "retry.max_retries=0", "stream=ray"]
    assert changed(*free) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("search.seed=1", "search.seed: 0 -> 1"),
        ("search.sampler=random", 'search.sampler: "tpe" -> "random"'),
        ("search.startup=5", "search.startup: null -> 5"),
        ("fixed.epochs=3", 'fixed: {} -> {"epochs": 3}'),
        ("objective.mode=max", 'objective.mode: "min" -> "max"'),
        ("storage=/x", 'storage: "./refsweep-out" -> "/x"'),
        ("tracking=none", 'tracking: null -> "none"'),
        ("name=other", 'name: "small" -> "other"'),
    ],
)
def test_any_other_change_is_named_with_old_and_new(text: str, expected: str):
    assert changed(text) == [expected]


def test_every_change_is_named_sorted_by_path():
    paths = [line.partition(":")[0] for line in changed("storage=/x", "search.seed=1", "search.eta=2", "fixed.x=1")]
    assert paths == ["fixed", "search.eta", "search.seed", "storage"]
