"""Finds trainables by name: the folder `trainables/<name>/` that holds a `task.py`."""

from __future__ import annotations

import importlib
import types
from pathlib import Path

from ..datasets.problems import InputError


def names() -> list[str]:
    """Every trainable there is."""
    return sorted(path.parent.name for path in Path(__file__).parent.glob("*/task.py"))


def load(name: str) -> types.ModuleType:
    """The module `trainables/<name>/task.py`, a `contract.Module`. Raises InputError with the choices."""
    if name not in names():
        raise InputError(f"trainable must be one of {', '.join(names())}, got {name!r}")
    return importlib.import_module(f".{name}.task", __package__)
