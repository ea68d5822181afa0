"""The toy needs no data."""

from __future__ import annotations

from ...datasets.storage.store import Store


def open_data(_: Store | None) -> None:
    """None: the toy needs no data."""


def check_data(_: Store) -> None:
    """Accepts any store: nothing of it is read."""
