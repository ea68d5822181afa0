"""Writes what every data set of made people has: the pictures, and a record of what each truly shows."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

import pyarrow as pa
from PIL import Image

from ...layouts.shared.annotations import read_json
from ...problems import InputError
from ...storage.leavings import data_names
from ...storage.store import Store
from .identities import People, PeopleRecipe, Scene
from .paint import Picture

FACTORS_FILE = "factors.json"
_QUALITY = 92  # of a JPEG
Factors = dict[str, Any]


def write_pictures(out: Store, people: People, rows: Iterator[tuple[str, Scene, str]]) -> list[Factors]:
    """Renders (path, scene, modality) and writes JPEGs to an empty `out`; the factors of each. Raises InputError."""
    if data_names(out):
        raise InputError(f"{out.uri} must be empty or new")
    shown = []
    with ThreadPoolExecutor(8) as pool:
        pending = []
        for path, scene, modality in rows:
            shown.append({"path": path, "modality": modality, **scene.factors(), "identity": scene.identity + 1})
            pending.append(pool.submit(out.write, path, _jpeg(people.picture(scene, modality))))
        for future in pending:
            future.result()
    return shown


def _jpeg(picture: Picture) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()


def write_record(out: Store, recipe: PeopleRecipe, shown: Sequence[Factors], layout: str) -> None:
    """`factors.json`, and `made.json` last: the data set is complete."""
    columns = {name: [row[name] for row in shown] for name in shown[0]}
    out.write(FACTORS_FILE, json.dumps(columns).encode())
    out.write("made.json", json.dumps({"layout": layout, **asdict(recipe)}, indent=1).encode())


def factors(store: Store) -> pa.Table:
    """What each picture of made data truly shows: path, modality, identity, image, camera, outfit (0 is the usual
    one), all traits of the person, and of the clothes top_colour and the rest."""
    return pa.table(read_json(store, FACTORS_FILE))
