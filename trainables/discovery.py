"""Finds trainables by name: the folder `trainables/<name>/` that holds a `task.py`."""

from __future__ import annotations

import importlib
import inspect
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..datasets.problems import InputError

if TYPE_CHECKING:
    from ..datasets.storage.store import Store
    from .training.config import LoopConfig


def names() -> list[str]:
    """Names of all trainables, sorted. Imports none of them."""
    return sorted(path.parent.name for path in Path(__file__).parent.glob("*/task.py"))


def check_name(name: str) -> None:
    """Raises InputError with the choices when there is no such trainable. Imports none."""
    if name not in names():
        raise InputError(f"trainable must be one of {', '.join(names())}, got {name!r}")


def load(name: str) -> types.ModuleType:
    """The module `trainables/<name>/task.py`, a `contract.Module`. Raises InputError with the choices."""
    check_name(name)
    return importlib.import_module(f".{name}.task", __package__)


def load_part(name: str, part: Literal["Config", "METRICS", "open_data", "check_data"]) -> Any:
    """One name of a trainable's module. Imports no torch where it stands in a `config.py` or a `data.py`, which a
    command that trains nothing does not wait for. Raises InputError with the choices."""
    check_name(name)
    file = "config" if part in ("Config", "METRICS") else "data"
    if (Path(__file__).parent / name / f"{file}.py").exists():
        module = importlib.import_module(f".{name}.{file}", __package__)
        if hasattr(module, part):
            return getattr(module, part)
    return getattr(load(name), part)


def load_config(name: str) -> type[LoopConfig]:
    """A trainable's Config: see `load_part`."""
    config: type[LoopConfig] = load_part(name, "Config")
    return config


def check_data(name: str, store: Store, fields: Mapping[str, Any]) -> None:
    """Checks data by a trainable's `check_data`, with those fields of a Config that it asks for. Raises DataError with
    all that is wrong, InputError with the choices when there is no such trainable."""
    check = load_part(name, "check_data")
    taken = list(inspect.signature(check).parameters)[1:]
    check(store, **{field: fields[field] for field in taken if field in fields})


def capability(name: str, function: str, command: str) -> Callable[..., Any]:
    """An optional function of a trainable's module (`contract.CanTrack` and the like), which `command` needs.

    Raises InputError that says which trainables have it.
    """
    module = load(name)
    if hasattr(module, function):
        return getattr(module, function)
    having = [other for other in names() if hasattr(load(other), function)]
    raise InputError(f"{command} needs a model that can {command}: {', '.join(having) or 'none'}, got {name}")
