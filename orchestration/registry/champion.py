"""Moves the alias `champion`, keeps its history, and repairs what a stopped process left behind.

Several processes may do both at once. Whatever one of them writes, it reads everything again after it, and ends when
nothing is left to mend; so the last one to write leaves a registry that is in order.
"""

from __future__ import annotations

import getpass
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from ..spec.errors import WorkFailedError
from .catalogue import ABSENT, PREVIOUS, Registered, Unless, read
from .history import Kind, Move, Phase, champions, now
from .identity import duplicates
from .names import CHAMPION

ROUNDS = 50  # of mending, while others write too
FORBIDDEN = ("PERMISSION_DENIED", "UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED")
CLASHES = (
    "BAD_REQUEST",
    "TEMPORARILY_UNAVAILABLE",
    "ABORTED",
    "RESOURCE_CONFLICT",
)  # MLflow's for two writers of a row
PAUSES_S = (0.05, 0.2, 1.0)

Write = Callable[..., Any]  # the door: calls its first argument with the others


class Champion:
    """The champion of one registered model."""

    def __init__(self, client: Any, write: Write, model: str) -> None:
        self.client, self.write, self.model = client, write, model

    def read(self) -> Registered:
        """The model as it stands."""
        return read(self.client, self.model)

    def looked_at(self) -> Registered:
        """The model, repaired. One without a history is left alone, and so is all where we may not write."""
        with Unless(*FORBIDDEN):
            return self._mended(self.read())
        return self.read()

    def mend(self) -> Registered:
        """The model, repaired and with a history: that of an earlier version begins with its aliases."""
        stands = self.read()
        if stands.champion is not None and not stands.moves:
            source = stands.aliases.get(PREVIOUS)
            first = Move.new(source if source != stands.champion else None, stands.champion, Kind.FOUND, "unknown")
            self._note(first.closed(Phase.DONE))
            stands = self.read()
        return self._mended(stands)

    def move(self, to: str, kind: Kind, **origin: Any) -> str | None:
        """Makes a version champion; the one that it replaces, None where it is champion already or there was none.

        Raises WorkFailedError when another process has moved the alias at the same time and this version is not
        champion.
        """
        stands = self.mend()
        stands.version(to)
        if stands.champion == to:
            return None
        move = Move.new(stands.champion, to, kind, _who(), **origin)
        self._note(move)
        self._set(self.client.set_registered_model_alias, self.model, CHAMPION, to)
        moved = self.read().champion == to
        self._note(move.closed(Phase.DONE if moved else Phase.VOID))
        stands = self.mend()
        if stands.champion != to:
            raise WorkFailedError(f"{self.model} version {to} is not champion: {_by_whom(stands)}")
        return move.source

    # -- repair ------------------------------------------------------------------------------------------

    def _mended(self, stands: Registered) -> Registered:
        for _ in range(ROUNDS):
            if not stands.moves:
                break
            mending = list(self._mending(stands))
            for mend in mending:
                mend()
            if not mending:
                break
            stands = self.read()
        return stands

    def _mending(self, stands: Registered) -> Iterator[Callable[[], Any]]:
        """What is to be written next: first the history, and once it is closed, what follows from it."""
        champion = stands.champion
        still_open = [move for move in stands.moves if move.state is Phase.OPEN]
        for move in still_open:
            done = move.to == champion
            # as of when it was written: later moves may be known by now
            yield partial(self._note, move.closed(Phase.DONE if done else Phase.VOID, move.at))
        if still_open:
            return
        past = champions(stands.moves)
        if champion is not None and past[-1:] != [champion]:
            found = Move.new(past[-1] if past else None, champion, Kind.FOUND, "unknown")
            yield partial(self._note, _closed_by_mistake(stands) or found.closed(Phase.DONE))
            return
        yield from self._previous(stands, stands.before)
        yield from self._tags(stands)
        for version in duplicates(stands.versions):
            if not version.aliases and str(version.version) not in stands.aliases.values():
                yield partial(self._delete, version)

    def _previous(self, stands: Registered, wanted: str | None) -> Iterator[Callable[[], Any]]:
        if stands.aliases.get(PREVIOUS) == wanted:
            return
        if wanted is None:
            yield partial(self._set, self.client.delete_registered_model_alias, self.model, PREVIOUS)
        else:
            yield partial(self._set, self.client.set_registered_model_alias, self.model, PREVIOUS, wanted)

    def _tags(self, stands: Registered) -> Iterator[Callable[[], Any]]:
        """Who made the champion champion, in its tags."""
        done = [move for move in stands.moves if move.state is Phase.DONE]
        if stands.champion is None or not done or done[-1].to != stands.champion:
            return
        last = done[-1]
        if last.kind is Kind.FOUND:
            return
        when = last.at.partition(".")[0] + "+00:00"
        by_kind = {
            Kind.PROMOTE: {"promoted_by": last.who, "promoted_at": when},
            Kind.ROLLBACK: {"rolled_back_by": last.who, "rolled_back_at": when},
        }
        tags = stands.version(stands.champion).tags
        for name, value in by_kind[last.kind].items():
            if tags.get(f"refsweep.{name}") != value:
                tag = (self.model, stands.champion, f"refsweep.{name}", value)
                yield partial(self._set, self.client.set_model_version_tag, *tag)

    def _delete(self, version: Any) -> None:
        with Unless(ABSENT):  # another process has deleted it
            self.write(self.client.delete_model_version, self.model, str(version.version))

    def _note(self, move: Move) -> None:
        self._set(self.client.set_registered_model_tag, self.model, move.key, move.as_text())

    def _set(self, what: Callable[..., Any], *arguments: Any) -> None:
        """Writes what may be written twice; again where another process has written the same row at the same moment."""
        for pause_s in PAUSES_S:
            with Unless(*CLASHES):
                self.write(what, *arguments)
                return
            time.sleep(pause_s)
        self.write(what, *arguments)


def _closed_by_mistake(stands: Registered) -> Move | None:
    """The newest move that was closed as void and yet led to what is champion: the process that made it was slower than
    one that repaired, and was then stopped."""
    done = [move.order for move in stands.moves if move.state is Phase.DONE]
    void = [move for move in stands.moves if move.state is Phase.VOID and move.to == stands.champion]
    newest = void[-1] if void else None
    if newest is None or (done and newest.order < max(done)):
        return None
    return newest.closed(Phase.DONE, now())


def _by_whom(stands: Registered) -> str:
    """Who is champion, and who made it so."""
    if stands.champion is None:
        return "no version is"
    made = [move for move in stands.moves if move.state is Phase.DONE and move.to == stands.champion]
    who = f", by {made[-1].who} at {made[-1].at}" if made else ""
    return f"version {stands.champion} is, moved there at the same time{who}"


def _who() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"
