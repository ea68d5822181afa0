"""Errors that every folder of `orchestration` may raise and that commands tell apart by their type."""

from __future__ import annotations

from ...datasets.problems import InputError


class WorkFailedError(Exception):
    """The input was good and the work failed all the same. Commands print the message and exit with code 1."""


class LedgerUnavailableError(InputError):
    """The database of a ledger can't be opened: the server is away, refuses this user, or the file is damaged."""


class StopRequestedError(Exception):
    """Somebody asked the sweep to stop before its first trial began."""
