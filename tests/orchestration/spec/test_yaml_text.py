"""Numbers are read as people write them, a key stands once, and a small file can't fill the memory."""

from __future__ import annotations

import re
import resource
import string
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from refsweep.datasets.problems import InputError
from refsweep.orchestration.spec.read import override, read_spec
from refsweep.orchestration.spec.yaml_text import MAX_BYTES, MAX_DEPTH, read_yaml
from refsweep.orchestration.sweep import check_spec

TOY = "name: s\ntrainable: toy\ndata: none\nobjective: {metric: loss, mode: min}\n"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1E5", 1e5),
        ("-2e+3", -2000.0),
        ("3.e2", 300.0),
        (".5", 0.5),
        ("5.", 5.0),
        ("+7", 7),
        ("1_000", 1000),
        ("010", 10),
        ("0o17", 15),
        ("0x1F", 31),
        ("'1e-3'", "1e-3"),
        ("1:30", "1:30"),
        ("2026-01-01", "2026-01-01"),
        ("e5", "e5"),
        (".", "."),
        ("1e", "1e"),
        ("1.2.3", "1.2.3"),
        ("yes", True),
        ("off", False),
        ("~", None),
        ("=", "="),
    ],
)
def test_plain_values_are_what_people_mean(text: str, value: Any):
    found = read_yaml(f"a: {text}")["a"]
    assert (found, type(found)) == (value, type(value))


@given(st.floats(allow_nan=False, allow_infinity=False), st.sampled_from(["r", "e", "g"]))
def test_every_number_that_python_writes_is_read_back(number: float, how: str):
    text = repr(number) if how == "r" else format(number, f".17{how}")
    assert read_yaml(f"a: {text}")["a"] == number


@given(st.text(string.digits + "eE+-._", min_size=1, max_size=8))
def test_what_is_a_number_in_json_is_the_same_number_here_and_other_text_is_no_crash(text: str):
    try:
        found = read_yaml(f"a: {text}")["a"]
    except InputError:
        return
    if re.fullmatch(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?", text):
        assert found == float(text)


def test_numbers_mean_the_same_in_a_spec_and_in_set_wherever_they_stand(tmp_path: Path):
    path = tmp_path / "s.yaml"
    path.write_text(TOY + "fixed: {lr: 1e-3}\nbudget: {cpu_hours: 1e2}\nretry: {hang_s: 6e1}\n")
    content = read_spec(str(path), ["search.sampler=grid", "search.grid.x=[1e-1, 2]", "search.grid.y=[-1E0]"])
    spec = check_spec(content)
    assert spec.fixed == {"lr": 0.001}
    assert (spec.budget.cpu_hours, spec.retry.hang_s) == (100.0, 60.0)
    assert spec.search.grid == {"x": [0.1, 2], "y": [-1.0]}
    assert override({}, ["lr=1e-4"]) == {"lr": 1e-4}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", "line 3: 'a' must stand once in a mapping, line 1 has it too"),
        ("a:\n  b: 1\n  'b': 2", "line 3: 'b' must stand once in a mapping, line 2 has it too"),
        ("a: [{x: 1, x: 2}]", "line 1: 'x' must stand once"),
        ("on: 1", "line 1: a key must be text, got on: put it into quotes"),
        ("a: .inf", "line 1: must be a finite number, got .inf"),
        ("a: .NaN", "line 1: must be a finite number, got .NaN"),
        ("a: 1e999", "line 1: must be a finite number, got 1e999"),
        ("a: " + "9" * 5000, "line 1: must be a whole number that can be stored, got 99"),
        ("a: !!int x", "line 1: must be a whole number"),
        ("a: !!set {b}", "is not YAML: line 1: must hold plain values, got one of type !!set"),
        ("a: !!timestamp x", "is not YAML: line 1: must hold plain values"),
        ('a: "\\ud800"', "line 1: text must hold no null and no half of a character"),
        ('a: "\\0"', "line 1: text must hold no null"),
        ("a: &a [*a]", "line 1: a value must not hold itself"),
        ("? [a]\n: 1", "is not YAML: line 1: "),
        ("[" * 100_000, f"line 1: must not be nested deeper than {MAX_DEPTH}"),
        ("- " * 50_000, f"line 1: must not be nested deeper than {MAX_DEPTH}"),
        ("{a: " * 1000, f"line 1: must not be nested deeper than {MAX_DEPTH}"),
        ("a" * (MAX_BYTES + 1), "must have at most 256 KiB"),
    ],
)
def test_what_is_refused_is_one_sentence_with_its_line(text: str, message: str):
    with pytest.raises(InputError, match=re.escape(message)) as refused:
        read_yaml(text)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 200


def test_a_merged_mapping_may_say_again_what_it_merges():
    assert read_yaml("a: &x {b: 1, c: 1}\nd: {<<: *x, b: 2}")["d"] == {"b": 2, "c": 1}


@pytest.mark.parametrize("merged", [False, True])
def test_aliases_of_aliases_are_counted_and_take_no_memory(merged: bool, tmp_path: Path):
    lines = ["a: &a {x: 1}" if merged else "a: &a [x,x,x,x,x,x,x,x,x]"]
    for before, name in zip("abcdefgh", "bcdefghi", strict=True):
        aliases = ",".join([f"*{before}"] * 9)
        lines.append(f"{name}: &{name} {{<<: [{aliases}]}}" if merged else f"{name}: &{name} [{aliases}]")
    path = tmp_path / "bomb.yaml"
    path.write_text(TOY + "\n".join(lines))
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match=r"bomb\.yaml: line \d+: must hold at most 50000 values, aliases written out"):
        read_spec(str(path))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb < 20_000
    with pytest.raises(InputError, match="--set 'fixed="):
        override({}, ["fixed=" + "[" * 1000])
    with pytest.raises(InputError, match="--set must name a field at most"):
        override({}, [".".join("a" * 5000) + "=1"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfen\0a\0", "is not YAML: it must be text in UTF-8"),
        (b"a: 1\n" * 60_000, "must have at most 256 KiB"),
        (b"a: 1\na: 2\n", ": line 2: 'a' must stand once"),
    ],
)
def test_a_file_is_named_with_what_is_wrong(content: bytes, message: str, tmp_path: Path):
    path = tmp_path / "s.yaml"
    path.write_bytes(content)
    with pytest.raises(InputError, match=re.escape(f"{path}") + f".?{re.escape(message.removeprefix(':'))}"):
        read_spec(str(path))


def test_a_file_that_begins_with_a_byte_order_mark_is_read(tmp_path: Path):
    path = tmp_path / "s.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + TOY.replace("\n", "\r\n").encode())
    assert check_spec(read_spec(str(path))).name == "s"
