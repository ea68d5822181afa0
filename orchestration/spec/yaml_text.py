"""YAML as people write it: numbers of YAML 1.2, no key twice, plain values only, limits on size, depth and aliases.

PyYAML reads YAML 1.1, in which `1e-3` is text, `1:30` is ninety, `010` is eight and `2026-01-01` is a date. Here they
are a number, two texts and ten. `yes`, `no`, `on` and `off` stay truth values, and `1_000` stays a number.
"""

from __future__ import annotations

import math
import re
from typing import Any

import yaml

from ...datasets.problems import InputError

MAX_BYTES = 2**18  # of a document
MAX_DEPTH = 40  # of lists and mappings in one another
MAX_VALUES = 50_000  # of a document, with every alias written out
MAX_DIGITS = 300  # of a whole number
_TAG = "tag:yaml.org,2002:"
_PLAIN = {_TAG + kind for kind in ("str", "int", "float", "bool", "null", "seq", "map", "merge")}
_INT = re.compile(r"[-+]?[0-9][0-9_]*|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(
    r"[-+]?(?:[0-9][0-9_]*)?(?:\.[0-9_]*)?(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)


def read_yaml(text: str) -> Any:
    """The plain values of one YAML document. Raises InputError with one sentence that says the line."""
    if len(text) > MAX_BYTES:
        raise InputError(f"must have at most {MAX_BYTES // 1024} KiB")
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _written_out(node, {})
        return loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        at = error.problem_mark or error.context_mark
        raise InputError(f"is not YAML: {_line(at) if at else ''}{error.problem or error.context}") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise InputError(f"is not YAML: line {line}: character {error.character:#x} may not stand in it") from None
    except yaml.YAMLError as error:
        raise InputError(f"is not YAML: {error}") from None


def _line(mark: Any) -> str:
    return f"line {mark.line + 1}: "


def _written_out(node: Any, known: dict[int, int]) -> int:
    """How many values a node holds with every alias in it written out. Raises InputError for too many, and for a value
    that holds itself."""
    if isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) in known:
        if not known[id(node)]:
            raise InputError(f"{_line(node.start_mark)}a value must not hold itself")
        return known[id(node)]
    known[id(node)] = 0  # being counted
    pairs = node.value if isinstance(node, yaml.MappingNode) else [(item,) for item in node.value]
    count = 1 + sum(_written_out(part, known) for pair in pairs for part in pair)
    if count > MAX_VALUES:
        raise InputError(f"{_line(node.start_mark)}must hold at most {MAX_VALUES} values, aliases written out")
    known[id(node)] = count
    return count


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with the rules of this file."""

    yaml_implicit_resolvers = {  # noqa: RUF012  PyYAML's own name
        first: [
            (tag, rule) for tag, rule in rules if tag.removeprefix(_TAG) not in ("int", "float", "timestamp", "value")
        ]
        for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    _depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Raises InputError for a node too deep in others, and for one that is no plain value."""
        self._depth += 1
        if self._depth > MAX_DEPTH:
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise InputError(f"{_line(mark)}must not be nested deeper than {MAX_DEPTH}")
        node: Any = super().compose_node(parent, index)
        self._depth -= 1
        if node.tag not in _PLAIN:
            kind = node.tag.replace(_TAG, "!!")
            raise InputError(f"is not YAML: {_line(node.start_mark)}must hold plain values, got one of type {kind}")
        return node

    def flatten_mapping(self, node: Any) -> None:
        """Before what is merged comes in: what the mapping itself says twice."""
        lines: dict[Any, int] = {}
        for key_node, _ in node.value:
            if key_node.tag == _TAG + "merge" or not isinstance(key_node, yaml.ScalarNode):
                continue
            line = key_node.start_mark.line + 1
            if key_node.value in lines:
                first = lines[key_node.value]
                raise InputError(
                    f"line {line}: {key_node.value!r} must stand once in a mapping, line {first} has it too"
                )
            lines[key_node.value] = line
        super().flatten_mapping(node)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """Raises InputError for a key that is no text."""
        made = super().construct_mapping(node, deep)
        for key_node, _ in node.value:
            if key_node.tag != _TAG + "str":
                shown = key_node.value if isinstance(key_node, yaml.ScalarNode) else "a list or mapping"
                raise InputError(f"{_line(key_node.start_mark)}a key must be text, got {shown}: put it into quotes")
        return made


def _whole(_: Any, node: Any) -> int:
    text = node.value.replace("_", "")
    try:
        if len(text) > MAX_DIGITS:
            raise ValueError
        return int(text, {"0x": 16, "0o": 8}.get(text.lower()[:2], 10))
    except ValueError:
        shown = node.value[:40]
        raise InputError(f"{_line(node.start_mark)}must be a whole number that can be stored, got {shown}") from None


def _number(_: Any, node: Any) -> float:
    text = node.value.replace("_", "").lower()
    try:
        value = float(text.replace(".inf", "inf").replace(".nan", "nan"))
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"{_line(node.start_mark)}must be a finite number, got {node.value[:40]}")
    return value


def _text(_: Any, node: Any) -> str:
    value = str(node.value)
    if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
        raise InputError(f"{_line(node.start_mark)}text must hold no null and no half of a character, got {value!r}")
    return value


_Loader.add_implicit_resolver(_TAG + "int", re.compile(rf"(?:{_INT.pattern})$"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    _TAG + "float", re.compile(rf"(?=.*[0-9a-zA-Z])(?:{_FLOAT.pattern})$"), list("-+.0123456789")
)
_Loader.add_constructor(_TAG + "int", _whole)
_Loader.add_constructor(_TAG + "float", _number)
_Loader.add_constructor(_TAG + "str", _text)
_Loader.add_constructor(_TAG + "merge", _text)  # `<<` where it is no key
