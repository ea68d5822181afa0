"""Writes annotation files of CUHK-PEDES, ICFG-PEDES and RSTPReid. See `cuhk_pedes` for the layouts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from ..problems import InputError
from ..storage.store import Store
from .cuhk_pedes import ANNOTATIONS


class Item(NamedTuple):
    """One picture, below imgs/."""

    split: str  # train, val, test
    identity: int
    path: str
    captions: Sequence[str]


def write_annotations(store: Store, items: Iterable[Item], name: str = "reid_raw.json") -> None:
    """The annotation file `name`, which says whose layout it is: RSTPReid calls a path `img_path`."""
    if name not in ANNOTATIONS:
        raise InputError(f"name must be one of {', '.join(ANNOTATIONS)}, got {name!r}")
    path_key = "img_path" if name == "data_captions.json" else "file_path"
    rows: list[dict[str, Any]] = [
        {
            "split": item.split,
            "captions": list(item.captions),
            path_key: item.path,
            "processed_tokens": [re.findall(r"[a-z0-9-]+", caption.lower()) for caption in item.captions],
            "id": item.identity,
        }
        for item in items
    ]
    store.write(name, json.dumps(rows).encode())
