"""Rows of text files, one a line, as tools of many kinds write them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from ...problems import DataError, Problem

T = TypeVar("T")
_MOST = 1 << 53  # whole numbers up to here survive as floating point


def parse_rows(
    text: str, where: str, sep: str | None, widths: Sequence[int], parse: Callable[[list[str]], T]
) -> list[tuple[int, T]]:
    """(line, `parse(columns)`) of every line that is not blank.

    Lines must have one of `widths` columns, all of them the same: a line that was cut off shows. Separators at a line's
    end do not count. Raises DataError that names every bad line, also those for which `parse` raises ValueError.
    """
    rows: list[tuple[int, T]] = []
    problems: list[Problem] = []
    first: tuple[int, int] | None = None  # columns, and in which line
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        column = line.strip().rstrip(sep).split(sep)
        try:
            if len(column) not in widths:
                expected = f"{widths[0]} to {widths[-1]}" if len(widths) > 1 else str(widths[0])
                raise ValueError(f"a row must have {expected} columns, got {len(column)}: {line.strip()[:60]!r}")
            first = first or (len(column), number)
            if len(column) != first[0]:
                raise ValueError(f"a row must have {first[0]} columns as line {first[1]} has, got {len(column)}")
            rows.append((number, parse([value.strip() for value in column])))
        except ValueError as error:
            problems.append(Problem(f"{where}:{number}", str(error)))
    if problems:
        raise DataError(problems)
    return rows


def whole(value: Any, name: str, low: int | None = None) -> int:
    """A whole number from text or JSON, also one that is written as 1.0. Raises ValueError with the rule."""
    rule = f"{name} must be a whole number{'' if low is None else f' >= {low}'}"
    try:
        if isinstance(value, bool):
            raise ValueError
        number = float(value)
        if not number.is_integer() or abs(number) > _MOST or (low is not None and number < low):
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{rule}, got {value}") from None
    return int(number)
