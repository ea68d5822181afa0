"""A few people in the layout of CUHK-PEDES, small enough to train on in a test."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from refsweep.datasets.store import Store

COLOURS = {"red": (200, 30, 30), "green": (30, 160, 30), "blue": (30, 30, 200), "white": (230, 230, 230)}
HAIR = {"dark": (40, 30, 20), "blond": (220, 200, 120), "grey": (150, 150, 150)}
BUILDS = {"slim": 6, "stocky": 12}


def write_people(folder: Path, train: int = 7, val: int = 8, test: int = 4, pictures: int = 3) -> None:
    """Pictures of 48 x 24 and two captions of each. A person keeps build and hair and changes clothes."""
    rng, store = np.random.default_rng(0), Store(str(folder))
    items: list[dict[str, Any]] = []
    for split, count in (("train", train), ("val", val), ("test", test)):
        for _ in range(count):
            identity = len({item["id"] for item in items})
            hair, build = rng.choice(list(HAIR)), rng.choice(list(BUILDS))
            for number in range(pictures):
                top, legs = rng.choice(list(COLOURS), 2)
                pixels = rng.integers(100, 130, (48, 24, 3)).astype(np.uint8)
                left = 12 - BUILDS[build] // 2
                pixels[3:10, 9:15] = HAIR[hair]
                pixels[10:28, left : left + BUILDS[build]] = COLOURS[top]
                pixels[28:46, left : left + BUILDS[build]] = COLOURS[legs]
                content = io.BytesIO()
                Image.fromarray(pixels).save(content, "PNG")
                path = f"{split}/{identity}_{number}.png"
                store.write(f"imgs/{path}", content.getvalue())
                captions = [
                    f"A {build} man with {hair} hair. He is wearing a {top} shirt and {legs} trousers.",
                    f"Wearing {legs} pants and a {top} top, number {number} of {identity}. A {build} man, {hair} hair.",
                ]
                items.append({"split": split, "id": identity, "file_path": path, "captions": captions})
    store.write("caption_all.json", json.dumps(items).encode())
