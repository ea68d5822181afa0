"""What a Config does, from its plans to the end of a training, as hashes that two Configs are compared by."""

from __future__ import annotations

import functools
import hashlib
import io
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from refsweep.datasets.problems import InputError
from refsweep.datasets.storage.store import Store
from refsweep.datasets.stream import Arrays
from refsweep.tests.trainables.tools import Changed, Family, predicted, trained
from refsweep.trainables.training.config import bounds_of, choices_of, fetched_fields

GUESSES = 4  # predictions at random, from which a setting is chosen each time


def another(family: Family, field: str) -> tuple[Any, dict[str, Any]]:
    """(another value of a field, the fields that it needs): the case's, or one of its bounds, choices or type."""
    config = family.module.Config
    if field in family.case.changes:
        change = family.case.changes[field]
        return (change.value, dict(change.given)) if isinstance(change, Changed) else (change, {})
    now = getattr(family.config(), field)
    if field in fetched_fields(config):
        return "/nowhere/model", {}
    if field in choices_of(config):
        return next(choice for choice in choices_of(config)[field] if choice != now), {}
    if isinstance(now, bool):
        return not now, {}
    assert field in bounds_of(config), f"case.py of {family.name}: changes must have another value of {field}"
    low, high = bounds_of(config)[field]
    if isinstance(now, int):
        return (now + 1 if now < high else now - 1), {}
    return (now / 2 if now else low + (min(high, 1) - low) / 2), {}


class Subject:
    """A Config whose effects are compared with another's."""

    def __init__(self, family: Family, fields: Mapping[str, Any]) -> None:
        self.family, self.fields = family, fields
        self._effects: dict[str, Any] = {}

    @functools.cached_property
    def task(self) -> Any:
        config = self.family.config(**self.fields)
        torch.manual_seed(config.seed)
        return self.family.module.Task(config, open_once(self.family))

    def effect(self, stage: Callable[[Subject], Any]) -> Any:
        """What a stage gives, or the error that it ends with: a Config that is refused has an effect too."""
        if stage.__name__ not in self._effects:
            try:
                self._effects[stage.__name__] = digest(stage(self))
            except (InputError, RuntimeError, ArithmeticError) as error:
                self._effects[stage.__name__] = repr(error)
        return self._effects[stage.__name__]


@functools.cache
def open_once(family: Family) -> Any:
    return family.open_data()


def plans(subject: Subject) -> Any:
    task, seed = subject.task, subject.task.config.seed
    of_evaluation = [
        [task.plan(split, 0, seed), task.batch_rows(split), task.eval_shards(split)] for split in task.eval_splits
    ]
    return [task.plan("train", 0, seed), task.plan("train", 1, seed), task.batch_rows("train"), of_evaluation]


def weights(subject: Subject) -> Any:
    task = subject.task
    groups = [[g.get("lr"), g.get("weight_decay"), sum(p.numel() for p in g["params"])] for g in task.param_groups()]
    return [task.model.state_dict(), [p.requires_grad for p in task.model.parameters()], groups]


def first_batch(subject: Subject, split: str) -> Arrays:
    task = subject.task
    rows = task.plan(split, 0, task.config.seed).slice(0, task.batch_rows(split))
    return task.read(rows, subject.family.store or Store("."))


def arrays(subject: Subject) -> Any:
    return [first_batch(subject, split) for split in ("train", *subject.task.eval_splits)]


def gradients(subject: Subject) -> Any:
    task, at_progress = subject.task, []
    batch = {name: torch.tensor(array) for name, array in first_batch(subject, "train").items()}
    for progress in (0.0, 0.3, 0.7):
        torch.manual_seed(0)
        task.model.train()
        task.model.zero_grad()
        terms = task.losses(batch, progress)
        sum(term for term in terms.values() if term.requires_grad).backward()
        at_progress.append([terms, [p.grad for p in task.model.parameters()]])
    return at_progress


def scores(subject: Subject) -> Any:
    task, store = subject.family.task(open_once(subject.family), **subject.fields), subject.family.store
    predictions = {split: predicted(task, split, store) for split in task.eval_splits}
    results, guess = [task.evaluate(predictions)], subject.family.case.guess
    for seed in range(GUESSES if guess is not None else 0):  # more to choose a setting from
        rng = np.random.default_rng(seed)
        guessed = {split: guess(arrays, rng) for split, arrays in predictions.items()} if guess is not None else {}
        results.append(task.evaluate(guessed))
    return [predictions, [[result.metrics, result.setting] for result in results], task.facts()]


def training(subject: Subject) -> Any:
    run = trained(subject.family.training(**subject.fields))
    history = [[result.epoch, result.metrics, result.setting] for result in run.history]
    with run.evaluated_model() as model:
        return [history, digest(model.state_dict()), run.state()["optimiser"]]


STAGES = (plans, weights, arrays, gradients, scores, training)


def content(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks())
    return sink.getvalue()


def digest(value: Any) -> str:
    """A hash of nested values, to the last bit."""
    state = hashlib.sha256()
    for part in _bytes_of(value):
        state.update(part)
    return state.hexdigest()


def _bytes_of(value: Any) -> Iterator[bytes]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield str(key).encode()
            yield from _bytes_of(item)
    elif isinstance(value, list | tuple):
        yield b"["
        for item in value:
            yield from _bytes_of(item)
        yield b"]"
    elif isinstance(value, torch.Tensor):
        yield from _bytes_of(value.detach().numpy())
    elif isinstance(value, np.ndarray):
        yield f"{value.dtype} {value.shape}".encode()
        yield np.ascontiguousarray(value).tobytes()
    elif isinstance(value, pa.Table):
        yield content(value)
    else:
        yield repr(value).encode()
