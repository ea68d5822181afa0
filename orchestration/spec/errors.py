"""Errors that every folder of `orchestration` may raise and that commands tell apart by their type."""

from __future__ import annotations

from ...datasets.problems import InputError


class WorkFailedError(Exception):
    """The input was good and the work failed all the same. Commands print the message and exit with code 1."""


class LedgerUnavailableError(InputError):
    """The database of a ledger can't be used: the server is away, refuses this user, or the file is damaged."""


class LedgerLostError(LedgerUnavailableError):
    """What a driver has written is gone: the ledger's file was deleted or replaced, or the server went back in time."""


class LeaseTakenError(InputError):
    """Another driver runs this sweep."""


class StopRequestedError(Exception):
    """Somebody asked the sweep to stop before its first trial began."""
