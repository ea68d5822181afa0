"""Writes the caption file of ORBench. See `orbench` for the layout."""

from __future__ import annotations

import json
from collections.abc import Iterable

from ..storage.store import Store
from .orbench import TEXT_FILE


def write_captions(store: Store, folder: str, captions: Iterable[tuple[str, str]]) -> None:
    """`<folder>/text_annos.json` from (path of a `vis` picture below the folder, caption)."""
    rows = [{"file_path": path, "caption": text} for path, text in captions]
    store.write(f"{folder}/{TEXT_FILE}" if folder else TEXT_FILE, json.dumps(rows).encode())
