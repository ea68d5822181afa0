"""What is wrong with a spec's search: sampler, pruner, grid, objectives, and the space with what the spec fixes."""

from __future__ import annotations

import logging

import optuna

from ...datasets.problems import InputError
from ...trainables import coercion, discovery
from ..ledger.quiet import quiet
from ..spec.check import epochs_of, trainable_problems
from ..spec.places import place_problems
from ..spec.read import Draft
from ..spec.schema import SweepSpec, grid_size
from .asking import PinnedTrial
from .discovery import evaluate_every, make_pruner, make_sampler, pruner_class, pruner_names, sampler_names
from .grid_check import grid_problems
from .pruners.base import PrunerSettings
from .spaces import search_space

log = logging.getLogger(__name__)
NO_GPU_HOURS = "must be null where trials use no GPU: limit cpu_hours or wall_hours"


def checked(draft: Draft, where: str, *, new: bool) -> SweepSpec:
    """The spec of a draft whose trainable, search and, for a `new` sweep, places are right; warns of what has no
    effect. Raises InputError with every problem at once, `where` first."""
    spec = draft.spec
    if spec is not None:
        if new:  # a sweep that began with what is refused now goes on
            draft.add(place_problems(spec))
            draft.add(new_problems(spec))
        draft.add(trainable_problems(spec))
        draft.add(problems(spec))
    accepted = draft.accepted(where)
    for line in warnings(accepted) if new else ():
        log.warning("%s", line)
    return accepted


def problems(spec: SweepSpec) -> list[str]:
    """All problems, each as `path: rule, got value`; empty when nothing is wrong."""
    return [*settings_problems(spec), *space_problems(spec)]


def new_problems(spec: SweepSpec) -> list[str]:
    """Those that a new sweep is refused for, though sweeps that have begun with them go on: what has no effect, or an
    effect that nobody can want. None are named while the trainable or the fixed values are wrong by themselves."""
    metrics = [objective.metric for objective in spec.objectives]
    lines = [
        f"objective: must name each metric once, got {name} again"
        for name in dict.fromkeys(metrics)
        if metrics.count(name) > 1
    ]
    if spec.budget.gpu_hours is not None and spec.resources.gpus_per_worker == 0:
        lines.append(f"budget.gpu_hours: {NO_GPU_HOURS}")
    if not _right_by_itself(spec):
        return lines
    epochs = epochs_of(spec)
    prunes = spec.search.pruner != "none" and spec.search.pruner in pruner_names()
    if prunes and spec.search.min_epochs > 1 and spec.search.min_epochs >= epochs:
        rule = f"must be below the {epochs} epochs of a trial with pruner {spec.search.pruner}"
        lines.append(f"search.min_epochs: {rule}, got {spec.search.min_epochs}")
    if spec.search.sampler == "grid" and spec.search.grid and grid_size(spec.search.grid):
        lines += grid_problems(spec)
    return lines


def warnings(spec: SweepSpec) -> list[str]:
    """What a right spec says without effect, each `path: sentence`."""
    epochs = epochs_of(spec)
    pruner = make_pruner(spec, epochs)
    if spec.search.pruner == "none" or any(pruner.judges(epoch) for epoch in range(1, epochs)):
        return []
    how = f"{epochs} epochs, of which one in {evaluate_every(spec)} is evaluated"
    return [f"search.pruner: {spec.search.pruner} ends no trial before its end: it has {how}"]


def settings_problems(spec: SweepSpec) -> list[str]:
    """Those of sampler, pruner, grid and objectives, by themselves and together."""
    search, objectives = spec.search, len(spec.objectives)
    lines = []
    if not objectives:
        lines.append("objective: must name at least one metric")
    if search.pruner in pruner_names():
        settings = PrunerSettings(min_epochs=search.min_epochs, eta=search.eta, objectives=objectives)
        lines += pruner_class(search.pruner)(settings).problems()
    else:
        lines.append(_unknown("search.pruner", pruner_names(), search.pruner))
    if search.sampler in sampler_names():
        lines += make_sampler(spec, slots=1).problems()
    else:
        lines.append(_unknown("search.sampler", sampler_names(), search.sampler))
    return lines


def space_problems(spec: SweepSpec) -> list[str]:
    """Those of the search space: it gives no Config with what the spec fixes. None are named while the trainable or
    the fixed values are wrong by themselves, which is for the check of those to say."""
    if not _right_by_itself(spec):
        return []
    config = discovery.load_config(spec.trainable)
    space = search_space(spec.trainable)
    with quiet():
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=spec.search.seed))
    try:
        fields = space.space(PinnedTrial(study.ask(), spec.fixed))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        return [f"fixed: the search space of {spec.trainable} can't use these values: {error!r}"]
    try:
        everything = {"seed": spec.search.seed, **space.POSTHOC, **fields, **spec.fixed}
        coercion.make_config(config, everything)
    except InputError as error:
        return [f"fixed: {line}" for line in str(error).splitlines()]
    return []


def _right_by_itself(spec: SweepSpec) -> bool:
    """Whether there is such a trainable, and a Config of its defaults and the fixed values."""
    try:
        coercion.make_config(discovery.load_config(spec.trainable), spec.fixed)
    except InputError:
        return False
    return True


def _unknown(path: str, names: list[str], value: str) -> str:
    *most, last = map(repr, names)
    return f"{path}: must be one of {', '.join(most)} or {last}, got {value!r}"
