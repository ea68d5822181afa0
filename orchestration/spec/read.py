"""Reads a spec: a YAML file, overrides from the command line, what a ledger has stored. Every problem at once."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import ValidationError

from ...datasets.problems import InputError
from .credentials import redacted
from .locations import folder_path, sqlite_path
from .places import tracking_by_rule
from .schema import Budget, Resources, Retry, SweepSpec, location_problems
from .yaml_text import MAX_BYTES, MAX_DEPTH, read_yaml

# Fields that may change when a sweep is run again under its name.
MAY_CHANGE = ("search.trials", "budget", "resources", "retry", "stream")


def read_spec(path: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The fields of a YAML file, with `a.b=value` overrides, not yet checked. Raises InputError."""
    try:
        with open(path, "rb") as file:
            read = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise InputError(f"no spec at {path}") from None
    except IsADirectoryError:
        raise InputError(f"{path} is not YAML: it is a folder") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} can't be read: {error}") from None
    if len(read) > MAX_BYTES:
        raise InputError(f"{path} must have at most {MAX_BYTES // 1024} KiB")
    try:
        content = read_yaml(read.decode())
    except UnicodeDecodeError:
        raise InputError(f"{path} is not YAML: it must be text in UTF-8") from None
    except InputError as error:
        raise InputError(f"{path} {error}" if str(error).startswith("is ") else f"{path}: {error}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path} must hold fields and their values")
    return override(content, overrides)


def override(content: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A copy with fields replaced; each override is `path=value`, the value in YAML. Raises InputError."""
    changed: dict[str, Any] = json.loads(json.dumps(content, default=str))
    for text in overrides:
        path, equals, value = text.partition("=")
        if not equals or not path:
            raise InputError(f"--set must be FIELD=VALUE, got {redacted(text)!r}")
        part = changed
        *parents, last = path.split(".")
        if len(parents) > MAX_DEPTH:
            raise InputError(f"--set must name a field at most {MAX_DEPTH} deep, got {path[:60]}...")
        for name in parents:
            part = part.setdefault(name, {})
            if not isinstance(part, dict):
                raise InputError(f"--set {path}: {name} holds no fields")
        try:
            part[last] = read_yaml(value)
        except InputError as error:
            raise InputError(f"--set {redacted(text)[:120]!r}: {error}") from None
    return changed


@dataclass(frozen=True, slots=True)
class Draft:
    """What is wrong with a spec by its fields alone."""

    spec: SweepSpec | None  # with defaults in place of fields that are wrong; None where too much is
    problems: list[str]  # each `path: what is wrong`
    wrong_fields: tuple[str, ...]  # paths of fields that are wrong by themselves

    def add(self, problems: Sequence[str]) -> None:
        """Takes in the problems that other checks of `spec` report, except about fields that are known to be wrong."""
        self.problems.extend(line for line in problems if not line.startswith(self.wrong_fields))

    def accepted(self, where: str) -> SweepSpec:
        """The spec. Raises InputError with every problem, `where` first."""
        if self.problems or self.spec is None:
            raise InputError("\n".join([f"{where}:", *(f"  {line}" for line in self.problems)]))
        return self.spec


def draft_spec(content: Mapping[str, Any]) -> Draft:
    """Checks the fields of a spec by their types, and where it keeps things."""
    content = _with_floats(content)
    try:
        draft = Draft(SweepSpec.model_validate(content), [], ())
    except ValidationError as error:
        problems = [line for e in error.errors() for line in _in_words(dict(e))]
        wrong = [e["loc"] for e in error.errors()]
        draft = Draft(_valid_part(content, wrong), problems, tuple(_path(place) for place in wrong))
    if draft.spec is not None:
        draft.add(location_problems(draft.spec))
    return draft


def _path(place: Sequence[Any]) -> str:
    """The field that an error is about; the whole of one that a stand-in takes the place of."""
    return str(place[0]) if place[0] in _STAND_INS else ".".join(str(name) for name in place)


# Fields without a default: values that are right by themselves, so that the other fields can be checked.
_STAND_INS: dict[str, Any] = {"name": "any", "data": "any", "objective": {"metric": "any", "mode": "min"}}


def _valid_part(content: Mapping[str, Any], wrong: Sequence[Sequence[Any]]) -> SweepSpec | None:
    left: dict[str, Any] = json.loads(json.dumps(content, default=str))
    for place in wrong:
        part: Any = left
        for name in place[:-1]:
            part = part.get(name, {}) if isinstance(part, dict) else {}
        if isinstance(part, dict):
            part.pop(place[-1], None)
    for name in {str(place[0]) for place in wrong} & _STAND_INS.keys():
        left[name] = _STAND_INS[name]
    try:
        return SweepSpec.model_validate(left)
    except ValidationError:
        return None


def make_spec(content: Mapping[str, Any], where: str = "spec") -> SweepSpec:
    """A spec from plain values, checked by its types alone. Raises InputError with every problem."""
    return draft_spec(content).accepted(where)


def _with_floats(content: Mapping[str, Any]) -> dict[str, Any]:
    """Whole numbers as floats where a field takes floats: YAML writes 1 for 1.0."""
    changed = dict(content)
    for part, model in (("resources", Resources), ("budget", Budget), ("retry", Retry)):
        if isinstance(changed.get(part), dict):
            floats = {
                n for n, f in model.model_fields.items() if f.annotation is float or float in get_args(f.annotation)
            }
            changed[part] = {k: float(v) if k in floats and type(v) is int else v for k, v in changed[part].items()}
    return changed


def _in_words(error: dict[str, Any]) -> list[str]:
    """A pydantic error as `path: rule, got value`, a line each."""
    path = ".".join(str(p) for p in error["loc"] if p not in ("one", "several"))
    kind, shown = error["type"], redacted(repr(error.get("input")))[:200]
    if kind == "extra_forbidden":
        return [f"{path}: unknown key"]
    if kind == "missing":
        return [f"{path}: must be given"]
    if kind == "literal_error":
        return [f"{path}: must be one of {error['ctx']['expected']}, got {shown}"]
    message = error["msg"].removeprefix("Value error, ")
    if kind == "value_error":
        return [f"{path}: {line}" if path else line for line in message.splitlines()]
    if kind == "string_pattern_mismatch":
        return [f"{path}: must be lower-case letters, digits, dots, dashes and underscores, got {shown}"]
    return [f"{path}: {message[0].lower()}{message[1:]}, got {shown}"]


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Fields in which two specs differ and may not, each as `path: old -> new`."""
    changed = []
    for key in sorted(old.keys() | new.keys()):
        path = f"{prefix}{key}"
        if path in MAY_CHANGE:
            continue
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict) and key != "fixed":
            changed += differences(a, b, f"{path}.")
        elif a != b:
            changed.append(f"{path}: {json.dumps(a)} -> {json.dumps(b)}")
    return changed


def settle(spec: SweepSpec) -> SweepSpec:
    """The spec with absolute paths and with what the environment says of MLflow, so that it means the same from any
    folder and in any shell."""
    content = {**spec.as_json(), "tracking": tracking_by_rule(spec.tracking)}
    if not spec.storage.startswith("s3://"):
        content["storage"] = str(folder_path(spec.storage))
    if spec.data != "none" and "://" not in spec.data and not spec.data.startswith("made:"):
        content["data"] = str(folder_path(spec.data))
    for name in ("ledger", "tracking"):
        path = sqlite_path(content[name]) if content[name] else None
        if path is not None:
            content[name] = f"sqlite:///{path}"
    return make_spec(content)
