"""The history of a champion: every move of the alias, each a tag of the registered model.

    refsweep.move.<time>-<random id> = {"from": "1", "to": "2", "kind": "promote", "who": .., "state": "done", ..}

MLflow moves one alias in one call; it has no transaction over two and no comparison with what was read. So the alias
`champion` alone is the truth, and moves in one call. A move is written before that (open) and confirmed after it
(done), or closed where it did not take place (void). No entry is ever removed. The alias `previous` and the versions'
tags follow from the history and are made anew from it.
"""

from __future__ import annotations

import dataclasses
import json
import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

PREFIX = "refsweep.move."


class Kind(StrEnum):
    """Why the alias moved."""

    PROMOTE = "promote"
    ROLLBACK = "rollback"
    FOUND = "found"  # moved by other means: by hand, by an earlier version, by a process that was then killed


class Phase(StrEnum):
    """How far a move has come."""

    OPEN = "open"
    DONE = "done"
    VOID = "void"  # it did not take place, or another replaced it at once


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """One move of the alias."""

    key: str  # of its tag; sorts by the time at which it was written
    source: str | None  # the version before; None where there was none
    to: str
    kind: Kind
    who: str
    at: str  # when it was written, UTC
    state: Phase = Phase.OPEN
    done_at: str | None = None  # when it was confirmed, UTC
    sweep_id: str | None = None  # of the sweep whose trial was promoted
    term: int | None = None  # the sweep's, then

    @classmethod
    def new(cls, source: str | None, to: str, kind: Kind, who: str, **origin: Any) -> Move:
        """An open one."""
        at = now()
        compact = at.translate(str.maketrans("", "", "-:+"))
        return cls(
            key=f"{PREFIX}{compact}-{uuid.uuid4().hex}", source=source, to=to, kind=kind, who=who, at=at, **origin
        )

    def closed(self, state: Phase, done_at: str | None = None) -> Move:
        """The same move, confirmed or void."""
        return dataclasses.replace(self, state=state, done_at=done_at or now())

    def as_text(self) -> str:
        """The value of its tag."""
        known = {name: getattr(self, name) for name in self.__slots__ if name not in ("key", "source")}
        return json.dumps({"from": self.source, **{k: v for k, v in known.items() if v is not None}})

    @classmethod
    def parse(cls, key: str, text: str) -> Move | None:
        """The move in a tag; None where the tag is none, such as one that was edited by hand."""
        try:
            stored = json.loads(text)
            return cls(
                key=key,
                source=None if stored["from"] is None else str(int(stored["from"])),
                to=str(int(stored["to"])),
                kind=Kind(stored["kind"]),
                who=str(stored["who"]),
                at=str(stored["at"]),
                state=Phase(stored["state"]),
                done_at=stored.get("done_at"),
                sweep_id=stored.get("sweep_id"),
                term=stored.get("term"),
            )
        except (ValueError, KeyError, TypeError, AttributeError):
            return None

    @property
    def order(self) -> tuple[str, str]:
        """By when the alias moved, as far as it is known."""
        return self.done_at or self.at, self.key


def now() -> str:
    """UTC, in a form that sorts as text."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def moves_of(tags: Mapping[str, str]) -> list[Move]:
    """The moves among a registered model's tags, oldest first."""
    found = (Move.parse(key, text) for key, text in tags.items() if key.startswith(PREFIX))
    return sorted((move for move in found if move is not None), key=lambda move: move.order)


def champions(moves: Iterable[Move]) -> list[str]:
    """The champions that lead to the present one, which is last: what rollback goes back along.

    A promotion puts its version at the end. A rollback takes away what came after the version that it returned to.
    """
    past: list[str] = []
    for move in moves:
        if move.state is not Phase.DONE:
            continue
        if not past and move.source is not None:
            past.append(move.source)
        if move.kind is Kind.ROLLBACK and move.to in past:
            while past[-1] != move.to:
                past.pop()
        elif past[-1:] != [move.to]:
            past.append(move.to)
    return past


def target(past: Sequence[str], champion: str | None, existing: Collection[str]) -> str | None:
    """The version to which a rollback goes: the newest before the champion that still exists; None for none."""
    left = champion or (past[-1] if past else None)
    return next((version for version in reversed(past[:-1]) if version in existing and version != left), None)
