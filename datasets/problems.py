"""Errors about what a user gave us: each problem with its place and the rule, all of them at once."""

from __future__ import annotations

from collections.abc import Iterable
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


@dataclass(slots=True)
class Findings:
    """The result of a check: what is wrong with a data set, and counts of what is in it."""

    problems: list[Problem] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)


def as_problems(error: InputError, where: str) -> list[Problem]:
    """The problems of an error; `where` is the place of one that names none."""
    return list(error.problems) if isinstance(error, DataError) else [Problem(where, str(error))]
