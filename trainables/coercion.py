"""A Config from plain values: what YAML, JSON and search spaces give, checked against the types of its fields."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from ..datasets.problems import InputError
from .training.config import fetched_fields

C = TypeVar("C")


def plain(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields from YAML or JSON, with tuples for lists: a Config is hashable."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}


def make_config(config: type[C], fields: Mapping[str, Any]) -> C:
    """A Config of a class from plain values, lists for tuples allowed. Raises InputError that names every bad field."""
    known = {f.name: f for f in dataclasses.fields(config)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(config)
    fields = plain(fields)
    problems = []
    for name, value in fields.items():
        if name not in known:
            problems.append(f"{name} is no field of {_owner(config)}: {', '.join(sorted(known))}")
        elif not fits(value, hints[name]):
            problems.append(f"{name} must be {_expected(hints[name])}, got {value!r}")
    if not problems:
        try:
            return config(**{n: _converted(v, hints[n]) for n, v in fields.items()})
        except ValueError as error:
            problems.append(str(error))
    raise InputError("\n".join(problems))


def make_packaged_config(config: type[C], fields: Mapping[str, Any]) -> C:
    """The Config of a package, from its plain values, with nothing to fetch: the package itself holds the weights.

    Raises InputError that names every bad field.
    """
    return make_config(config, {**fields, **dict.fromkeys(fetched_fields(config))})


def differing(config: type[Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """Those plain values of a Config that are not its defaults."""
    defaults = {f.name: f.default for f in dataclasses.fields(config)}
    return {name: value for name, value in plain(fields).items() if value != defaults.get(name, dataclasses.MISSING)}


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


def expected(config: type[Any], field: str) -> str:
    """What type a Config's field has, in words: `a number or null`, say."""
    return _expected(typing.get_type_hints(config)[field])


def _owner(config: type[Any]) -> str:
    """Whose Config it is: `ikun's Config`, from the folder that its file lies in."""
    return f"{([*config.__module__.split('.')[-2:-1], config.__module__])[0]}'s {config.__name__}"


def _converted(value: Any, hint: Any) -> Any:
    """Floats for whole numbers where the type has floats only."""
    if isinstance(value, tuple):
        return tuple(_converted(item, typing.get_args(hint)[0]) for item in value)
    takes_float = hint is float or float in typing.get_args(hint)
    takes_int = hint is int or int in typing.get_args(hint)
    return float(value) if takes_float and not takes_int and type(value) is int else value


def _expected(hint: Any) -> str:
    """A type in words."""
    args = typing.get_args(hint)
    if typing.get_origin(hint) is typing.Literal:
        return "one of " + ", ".join(map(str, args))
    if typing.get_origin(hint) is tuple:
        return f"a list, each {_expected(args[0])}"
    if args:
        return " or ".join(_expected(a) for a in args)
    return (
        "null"
        if hint is type(None)
        else {"str": "text", "int": "a whole number", "float": "a number", "bool": "true or false"}.get(
            hint.__name__, hint.__name__
        )
    )
