"""A Config from plain values: what YAML, JSON and search spaces give, checked against the types of its fields."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any

from ..datasets.problems import InputError

if typing.TYPE_CHECKING:
    from .training.config import LoopConfig


def plain(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields from YAML or JSON, with tuples for lists: a Config is hashable."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}


def make_config(module: types.ModuleType, fields: Mapping[str, Any]) -> LoopConfig:
    """The module's Config from plain values. Raises InputError that names every bad field."""
    known = {f.name: f for f in dataclasses.fields(module.Config)}
    hints = typing.get_type_hints(module.Config)
    problems = []
    for name, value in fields.items():
        if name not in known:
            problems.append(
                f"{name} is no field of {module.__name__.split('.')[-2]}'s Config: {', '.join(sorted(known))}"
            )
        elif not fits(value, hints[name]):
            problems.append(f"{name} must be {_say(hints[name])}, got {value!r}")
    if not problems:
        try:
            return module.Config(**{n: _as(v, hints[n]) for n, v in fields.items()})
        except ValueError as error:
            problems.append(str(error))
    raise InputError("\n".join(problems))


def fits(value: Any, hint: Any) -> bool:
    """Whether a value read from YAML is of the type a field is declared with; whole numbers are floats too."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, arg) for arg in args)
    if origin is typing.Literal:
        return value in args
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if origin is tuple:
        return isinstance(value, tuple) and all(fits(item, args[0]) for item in value)
    return isinstance(value, origin or hint)


def _as(value: Any, hint: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(_as(item, typing.get_args(hint)[0]) for item in value)
    takes_float = hint is float or float in typing.get_args(hint)
    takes_int = hint is int or int in typing.get_args(hint)
    return float(value) if takes_float and not takes_int and type(value) is int else value


def _say(hint: Any) -> str:
    args = typing.get_args(hint)
    if typing.get_origin(hint) is typing.Literal:
        return "one of " + ", ".join(map(str, args))
    if typing.get_origin(hint) is tuple:
        return f"a list, each {_say(args[0])}"
    if args:
        return " or ".join(_say(a) for a in args)
    return (
        "null"
        if hint is type(None)
        else {"str": "text", "int": "a whole number", "float": "a number", "bool": "true or false"}.get(
            hint.__name__, hint.__name__
        )
    )
