"""What must be true of every trainable (`trainables/contract.py`). A family brings its `case.py`, nothing else."""

from __future__ import annotations

import dataclasses
import json
import math
import pickle  # noqa: TID251  data workers get `read` so
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from refsweep.datasets.problems import InputError
from refsweep.datasets.storage.store import Store
from refsweep.datasets.stream import Arrays
from refsweep.tests.trainables.effects import STAGES, Subject, another, content, digest
from refsweep.tests.trainables.tools import Family, case_of, joined, predicted, read, trained
from refsweep.tests.trainables.training.in_team import alone, together
from refsweep.tests.trainables.training.test_loop import equal
from refsweep.trainables import coercion, discovery
from refsweep.trainables.training.config import LoopConfig, bounds_of, choices_of, fetched_fields
from refsweep.trainables.training.package import Package

NAMES = discovery.names()
# Fields of every Config that change no figure on a CPU, and why.
NOT_MEASURED = {
    "amp": "bfloat16 autocast is for CUDA",
    "tf32": "TensorFloat-32 is for CUDA",
    "compile": "the same numbers, sooner",
    "sync_bn": "batch norm over several GPUs",
}

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module", params=NAMES)
def family(request: pytest.FixtureRequest, family_of: Callable[[str], Family]) -> Family:
    return family_of(request.param)


@pytest.fixture(scope="module")
def data(family: Family) -> Any:
    return family.open_data()


@pytest.fixture(scope="module")
def task(family: Family, data: Any) -> Any:
    return family.task(data)


@pytest.fixture(scope="module")
def predictions(family: Family, task: Any) -> dict[str, Arrays]:
    return {split: predicted(task, split, family.store) for split in task.eval_splits}


def test_a_plan_follows_from_split_epoch_and_seed(family: Family, data: Any, task: Any):
    other = family.task(data)
    for split in reversed(task.eval_splits):  # asked for in another order
        other.plan(split, 1, 3)
    plan = task.plan("train", 1, 5)
    assert plan.equals(other.plan("train", 1, 5))
    assert not plan.equals(task.plan("train", 2, 5)), "every epoch draws anew"
    assert not plan.equals(task.plan("train", 1, 6)), "every seed draws anew"
    for split in task.eval_splits:
        assert task.plan(split, 0, 5).equals(other.plan(split, 0, 5))


def test_reading_is_pure_and_travels_to_data_workers(family: Family, task: Any):
    store = family.store or Store(".")
    sent = pickle.loads(pickle.dumps(task.read))  # noqa: S301  our own
    for split in ("train", *task.eval_splits):
        rows = task.plan(split, 0, 0).slice(1, 5)
        before = content(rows)
        arrays = task.read(rows, store)
        for again in (task.read(rows, store), sent(rows, store)):
            assert digest(again) == digest(arrays)
        assert content(rows) == before
        assert all(isinstance(array, np.ndarray) for array in arrays.values())


def test_every_trained_parameter_is_in_one_group(task: Any):
    groups = [{id(p) for p in group["params"]} for group in task.param_groups()]
    trained_ones = {id(p) for p in task.model.parameters() if p.requires_grad}
    assert sum(map(len, groups)) == len(trained_ones)
    assert set.union(*groups) == trained_ones


def test_losses_are_scalars_and_their_sum_has_a_gradient(family: Family, data: Any):
    task = family.task(data)
    task.model.train()
    rows = task.plan("train", 0, 0).slice(0, task.batch_rows("train"))
    terms = task.losses(read(task, rows, family.store), 0.5)
    assert all(term.ndim == 0 and math.isfinite(term.detach()) for term in terms.values())
    sum(term for term in terms.values() if term.requires_grad).backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in task.model.parameters())


def test_stopped_after_any_batch_and_resumed_equals_uninterrupted(family: Family, tmp_path: Path):
    for number, variant in enumerate(family.case.variants or ({},)):
        whole = trained(family.training(**variant))
        batches = whole.config.epochs * whole.batches_per_epoch
        assert batches >= 4
        for stopped in range(1, batches + 1):
            folder = tmp_path / f"{number}-{stopped}"
            first = trained(family.training(folder, **variant), stop_after=stopped)
            assert (first.epoch, first.batch) != (whole.config.epochs, 0)
            resumed = trained(family.training(folder, attempt=2, **variant))
            assert equal(resumed, whole), f"{variant}: stopped after batch {stopped}"


@pytest.fixture(scope="session")
def by_two_workers(
    request: pytest.FixtureRequest, family_of: Callable[[str], Family], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, list[dict[str, Any]]]:
    """Results of two workers of a training that moves nothing: one start of processes for all families that are
    tested."""
    tested = [item for item in request.session.items if item.name.startswith("test_two_workers")]
    names = [name for name in NAMES if any(item.name.endswith(f"[{name}]") for item in tested)]
    jobs = [job_of(family_of(name)) for name in names]
    return dict(zip(names, together(jobs, tmp_path_factory.mktemp("team")), strict=True))


def job_of(family: Family) -> dict[str, Any]:
    rates = [field.name for field in dataclasses.fields(family.module.Config) if f"_{field.name}".endswith("_lr")]
    config = {**family.case.config, **dict.fromkeys(rates, 0.0), "epochs": 1}
    return {"trainable": family.name, "config": config, "data": family.uri}


def test_two_workers_do_what_one_does(family: Family, by_two_workers: dict[str, list[dict[str, Any]]]):
    one, (two, other) = alone(job_of(family)), by_two_workers[family.name]
    assert [result["ended"] for result in (one, two, other)] == ["done"] * 3
    learnt = [name for name in two["model"] if "running_" not in name]  # statistics are of a worker's own rows
    for name in learnt:
        assert two["model"][name] == other["model"][name], "workers hold the same weights"
        assert two["model"][name] == pytest.approx(one["model"][name], abs=1e-6)
    ours, theirs = one["history"][0]["metrics"], two["history"][0]["metrics"]
    assert theirs == other["history"][0]["metrics"]
    assert theirs.keys() == ours.keys()
    assert theirs["train_loss"] == pytest.approx(ours["train_loss"], rel=family.case.worker_tolerance)


def test_predictions_do_not_depend_on_how_a_plan_is_cut(family: Family, task: Any, predictions: dict[str, Arrays]):
    for split, whole in predictions.items():
        plan, shards = task.plan(split, 0, 0), task.eval_shards(split)
        assert sum(shards) == plan.num_rows
        for size in (1, 3, plan.num_rows):
            assert_same(predicted(task, split, family.store, size), whole)
        starts = np.cumsum([0, *shards[:-1]]).tolist()
        store = family.store or Store(".")
        with torch.no_grad():  # each shard by a predictor of its own
            parts = [task.predictor()(task.read(plan.slice(*s), store)) for s in zip(starts, shards, strict=True)]
        assert_same(joined(parts), whole)


def test_metrics_are_those_the_module_names(family: Family, task: Any, predictions: dict[str, Arrays]):
    assert set(task.evaluate(predictions).metrics) == set(family.module.METRICS)


def test_the_setting_is_chosen_on_the_first_split_and_a_given_one_is_used(
    family: Family, data: Any, task: Any, predictions: dict[str, Arrays]
):
    last = task.eval_splits[-1]
    chosen = task.evaluate(predictions)
    again = task.evaluate({last: predictions[last]}, chosen.setting)
    assert (again.metrics, again.setting) == (chosen.metrics, chosen.setting)
    torch.manual_seed(1)
    for parameter in (other := family.task(data)).model.parameters():
        parameter.data += torch.randn_like(parameter)
    if len(task.eval_splits) > 1:
        elsewhere = predicted(other, last, family.store)
        assert task.evaluate({**predictions, last: elsewhere}).setting == chosen.setting
    for setting in family.case.settings or ({},):
        scores = task.evaluate({last: predictions[last]}, setting)
        figures = task.score_with(last, predictions[last], setting)
        assert scores.setting == setting
        assert {name: figures[name] for name in scores.metrics} == pytest.approx(scores.metrics, nan_ok=True)
    if family.case.settings is not None:
        one, two = (task.score_with(last, predictions[last], setting) for setting in family.case.settings)
        assert one != two, "a setting changes figures"


@pytest.fixture(scope="module")
def package(family: Family, task: Any, predictions: dict[str, Arrays], tmp_path_factory: pytest.TempPathFactory):
    """Written and read, with where its weights once came from gone."""
    store = Store(str(tmp_path_factory.mktemp("package")))
    task.plan("train", 0, 0)
    made = family.package(task, task.evaluate(predictions).setting)
    gone = dict.fromkeys(fetched_fields(family.module.Config), "/gone")
    dataclasses.replace(made, config={**made.config, **gone}).write(store)
    return Package.read(store)


def test_a_package_is_measured_as_what_it_was_made_of(
    family: Family, data: Any, task: Any, predictions: dict[str, Arrays], package: Package
):
    assert json.loads(json.dumps(package.facts)) == package.facts == json.loads(json.dumps(task.facts()))
    config = coercion.make_packaged_config(family.module.Config, package.config)
    assert config == dataclasses.replace(task.config, **dict.fromkeys(fetched_fields(type(config))))
    torch.manual_seed(7)
    other = family.module.Task(config, data)
    other.model.load_state_dict(dict(package.weights))
    other.model.eval()
    other.restore_facts(package.facts)
    assert other.facts() == package.facts
    last = task.eval_splits[-1]
    ours = task.score_with(last, predictions[last], package.setting)
    theirs = other.score_with(last, predicted(other, last, family.store), package.setting)
    assert theirs == pytest.approx(ours, abs=1e-4, nan_ok=True)


def test_a_package_of_wrong_types_is_refused(family: Family, package: Package):
    wrong = dataclasses.replace(package, config={**package.config, "epochs": "many", "lr": None})
    with pytest.raises(InputError) as caught:
        family.module.serve(wrong)
    assert "epochs must be a whole number, got 'many'" in str(caught.value)
    assert "lr must be a number, got None" in str(caught.value)


def test_a_served_package_answers_the_example(family: Family, data: Any, task: Any, package: Package):
    rows = json.loads(json.dumps(family.module.example(data, task.config)))
    served = family.module.serve(package)
    answer = served.predict(rows)
    assert {len(column) for column in (*rows.values(), *answer.values())} == {1}
    assert json.loads(json.dumps(answer)) == answer
    assert served.predict(rows) == answer
    both = {name: column * 2 for name, column in rows.items()}
    assert {name: column[:1] for name, column in served.predict(both).items()} == answer


# -- Configs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_value_outside_its_bounds_or_choices_is_refused_with_the_rule(name: str):
    config, case = discovery.load_config(name), case_of(name)
    for field, (low, high) in bounds_of(config).items():
        kind = type(low) if isinstance(low, int) and isinstance(high, int) else float
        for value in (low - 1, high + 1):
            many = isinstance(getattr(config(), field), tuple)
            with pytest.raises(ValueError, match=rf"{field} must be in {low}\.\.{high}, got"):
                config(**{**case.config, field: (kind(value),) if many else kind(value)})
    for field, choices in choices_of(config).items():
        with pytest.raises(ValueError, match=f"{field} must be one of .*, got 'nonsense'"):
            config(**{**case.config, field: "nonsense"})
        assert len(choices) > 1


def measured_fields(name: str) -> list[str]:
    """The fields of a family's Config whose effect is measured; those of the loop at the toy alone."""
    names = [field.name for field in dataclasses.fields(discovery.load_config(name))]
    of_loop = {field.name for field in dataclasses.fields(LoopConfig)}
    return [field for field in names if field not in NOT_MEASURED and (name == "toy" or field not in of_loop)]


@pytest.mark.parametrize(("name", "field"), [(name, field) for name in NAMES for field in measured_fields(name)])
def test_every_field_of_a_config_changes_something(
    name: str, field: str, family_of: Callable[[str], Family], subjects: Callable[..., Subject]
):
    family = family_of(name)
    value, given = another(family, field)
    one, two = subjects(family, given), Subject(family, {**given, field: value})
    changed = next((stage.__name__ for stage in STAGES if one.effect(stage) != two.effect(stage)), None)
    reason = family.case.no_effect.get(field)
    assert (changed is None) == (reason is not None), f"changes {changed or 'nothing'}; no effect is declared: {reason}"


def test_a_config_does_the_same_twice(family: Family, subjects: Callable[..., Subject]):
    """Else the test above could not fail."""
    again = Subject(family, {})
    for stage in STAGES:
        assert again.effect(stage) == subjects(family, {}).effect(stage), stage.__name__


@pytest.fixture(scope="session")
def subjects() -> Callable[..., Subject]:
    """The tiny Config of a family with some fields changed; made once."""
    made: dict[str, Subject] = {}

    def get(family: Family, given: Mapping[str, Any]) -> Subject:
        return made.setdefault(f"{family.name} {sorted(given.items())}", Subject(family, given))

    return get


def assert_same(one: Arrays, two: Arrays) -> None:
    """Predictions agree; half precision and reduced sums may differ in their last digits."""
    assert one.keys() == two.keys()
    for name, array in one.items():
        assert array.shape == two[name].shape
        if array.dtype.kind == "f":
            atol = 2e-3 if array.dtype == np.float16 else 1e-5
            np.testing.assert_allclose(array.astype(float), two[name].astype(float), atol=atol)
        else:
            np.testing.assert_array_equal(array, two[name])
