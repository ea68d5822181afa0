"""Errors about what a user gave us: each problem with its place and the rule, all of them at once."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field


class InputError(ValueError):
    """Input that can't be used. Commands print the message and exit with code 2."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong in a data set."""

    where: str  # file, and the line or key in it
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


class DataError(InputError):
    """One or more problems of a data set."""

    SHOWN = 20

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        lines = [str(problem) for problem in self.problems[: self.SHOWN]]
        if len(self.problems) > self.SHOWN:
            lines.append(f"... and {len(self.problems) - self.SHOWN} more")
        super().__init__("\n".join(lines))

    def __reduce__(self) -> tuple[type[DataError], tuple[tuple[Problem, ...]]]:
        return DataError, (self.problems,)  # a data worker's error arrives as it was


@dataclass(slots=True)
class Findings:
    """The result of a check: what is wrong with a data set, and counts of what is in it."""

    problems: list[Problem] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    warnings: list[Problem] = field(default_factory=list)  # what is left out, or may be meant otherwise; data is usable

    def refuse(self) -> None:
        """Raises DataError where there are problems; else logs the warnings, the first few of them."""
        if self.problems:
            raise DataError(self.problems)
        for line in self.warnings[: DataError.SHOWN]:
            _log.warning("%s", line)
        if len(self.warnings) > DataError.SHOWN:
            _log.warning("... and %d more: `data check` names them", len(self.warnings) - DataError.SHOWN)


_log = logging.getLogger(__name__)
FIRST = 3  # of many alike, that are named


def as_problems(error: InputError, where: str) -> list[Problem]:
    """The problems of an error; `where` is the place of one that names none."""
    return list(error.problems) if isinstance(error, DataError) else [Problem(where, str(error))]


def first(names: Sequence[object]) -> str:
    """`a, b, c, ...`: the first few of many."""
    return ", ".join(map(str, names[:FIRST])) + (", ..." if len(names) > FIRST else "")


@dataclass(frozen=True, slots=True)
class OfFile:
    """A problem of a file, and how it is named for many in one folder: `images are missing`."""

    problem: Problem
    many: str
    why: str = ""  # of this one, where that differs from file to file
    cause: str = ""  # what they have in common
    name: str = ""  # path of the file, where that is not the problem's place

    @property
    def path(self) -> str:
        """The file's path."""
        return self.name or self.problem.where


def by_folder(found: Iterable[OfFile]) -> list[Problem]:
    """One problem for all files of a folder that have the same: `imgs/: 24000 images are missing: 1.jpg, 2.jpg, ...`.

    A problem that is alone stays as it is. The order is that of the first of each.
    """
    alike: dict[tuple[str, str, str], list[OfFile]] = {}
    for one in found:
        alike.setdefault((one.path.rpartition("/")[0], one.many, one.cause), []).append(one)
    problems = []
    for (folder, many, cause), those in alike.items():
        names = first([one.path.rpartition("/")[2] for one in those])
        why = f" (the first: {those[0].why})" if those[0].why else ""
        text = f"{len(those)} {many}: {names}{why}"
        several = Problem(f"{folder}/", f"{cause}: {text}" if cause else text)
        problems.append(those[0].problem if len(those) == 1 else several)
    return problems
