"""What is wrong with a spec's search: sampler, pruner, grid, objectives, and the space with what the spec fixes."""

from __future__ import annotations

import optuna

from ...datasets.problems import InputError
from ...trainables import coercion, discovery
from ..ledger.quiet import quiet
from ..spec.schema import SweepSpec
from .asking import PinnedTrial
from .discovery import make_sampler, pruner_class, pruner_names, sampler_names
from .pruners.base import PrunerSettings
from .spaces import search_space


def problems(spec: SweepSpec) -> list[str]:
    """All problems, each as `path: rule, got value`; empty when nothing is wrong."""
    return [*settings_problems(spec), *space_problems(spec)]


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
    try:
        config = discovery.load_config(spec.trainable)
        coercion.make_config(config, spec.fixed)
    except InputError:
        return []
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


def _unknown(path: str, names: list[str], value: str) -> str:
    *most, last = map(repr, names)
    return f"{path}: must be one of {', '.join(most)} or {last}, got {value!r}"
