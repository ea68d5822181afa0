"""Finds samplers and pruners by name: `sampler: tpe` is the one `Sampler` of the file `samplers/tpe.py`, and
`pruner: asha` the one `Pruner` of `pruners/asha.py`. A file is imported only when its name is asked for."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from typing import Any

from ...datasets.problems import InputError
from ...trainables.discovery import load_config
from ..spec.schema import SweepSpec
from .pruners.base import Pruner, PrunerSettings
from .samplers.base import Sampler, SamplerSettings
from .spaces import given_fields


def sampler_names() -> list[str]:
    """Every sampler there is."""
    return _names("samplers")


def pruner_names() -> list[str]:
    """Every pruner there is."""
    return _names("pruners")


def sampler_class(name: str) -> type[Sampler]:
    """The sampler of that name. Raises InputError with the choices."""
    return _load("samplers", name, Sampler)


def pruner_class(name: str) -> type[Pruner]:
    """The pruner of that name. Raises InputError with the choices."""
    return _load("pruners", name, Pruner)


def make_sampler(spec: SweepSpec, slots: int) -> Sampler:
    """The sampler that a spec names, for a sweep of which `slots` trials run at a time."""
    s = spec.search
    settings = SamplerSettings(
        seed=s.seed, startup=s.startup, slots=slots, objectives=len(spec.objectives), grid=s.grid
    )
    return sampler_class(s.sampler)(settings)


def make_pruner(spec: SweepSpec, epochs: int) -> Pruner:
    """The pruner that a spec names, for trials of `epochs` epochs. It ranks by the first objective."""
    s = spec.search
    settings = PrunerSettings(
        min_epochs=s.min_epochs,
        eta=s.eta,
        max_epochs=epochs,
        evaluate_every=evaluate_every(spec),
        better=1 if spec.objectives[0].mode == "max" else -1,
        objectives=len(spec.objectives),
    )
    return pruner_class(s.pruner)(settings)


def evaluate_every(spec: SweepSpec) -> int | None:
    """Of how many epochs one is evaluated, None where the search space may say it for each trial."""
    field = "evaluate_every"
    if field in spec.fixed:
        return int(spec.fixed[field])
    if field in given_fields(spec.trainable):
        return None
    defaults: dict[str, Any] = {f.name: f.default for f in dataclasses.fields(load_config(spec.trainable))}
    return int(defaults[field])


def _names(folder: str) -> list[str]:
    package = importlib.import_module(f".{folder}", __package__)
    return sorted(module.name for module in pkgutil.iter_modules(package.__path__) if module.name != "base")


def _load(folder: str, name: str, base: type) -> Any:
    """The one subclass of `base` that the file `<folder>/<name>.py` defines."""
    if name not in _names(folder):
        raise InputError(f"{folder[:-1]} must be one of {', '.join(_names(folder))}, got {name!r}")
    module = importlib.import_module(f".{folder}.{name}", __package__)
    defined = [c for c in vars(module).values() if isinstance(c, type) and c.__module__ == module.__name__]
    [implementation] = [c for c in defined if issubclass(c, base)]
    return implementation
