"""A sweep's data: where it is, made if it is procedural, its fingerprint, its faults."""

from __future__ import annotations

import hashlib
from urllib.parse import parse_qsl

from ...datasets.fingerprint import fingerprint
from ...datasets.problems import InputError
from ...datasets.storage.store import Store
from ...trainables import discovery
from .made_data import kind_of, listed, number
from .schema import SweepSpec


def data_of(spec: SweepSpec) -> str | None:
    """Where a sweep's data is; procedural data is made if it is gone."""
    if spec.data == "none":
        return None
    return place_of(spec.data, spec.storage)


def place_of(uri: str, storage: str) -> str:
    """Where data is: `made:...` has a place in the storage, where it is made if it is gone."""
    return _made(uri, storage) if uri.startswith("made:") else uri


def prepare_data(spec: SweepSpec) -> tuple[str | None, str]:
    """(where the data is, its fingerprint). Makes procedural data; raises InputError for data with faults."""
    uri = data_of(spec)
    if uri is None:
        return None, "none"
    store = Store(uri)
    mark = fingerprint(store)
    discovery.load(spec.trainable).check_data(store)
    return uri, mark


def _made(uri: str, storage: str) -> str:
    """The place of `made:refer-kitti?videos=6`, filled at first use."""
    name, _, query = uri.removeprefix("made:").partition("?")
    kind = kind_of(name, "data: the kind after made:")
    fields: dict[str, int | float] = {}
    for field, text in parse_qsl(query, keep_blank_values=True):
        value = number(kind, field, text)
        if value is None:
            raise InputError(f"data: made:{name} takes {listed(kind.numbers)}, got {field}={text}")
        fields[field] = value
    recipe = kind.recipe(**fields)
    place = f"made/{name}-{hashlib.sha256(repr(recipe).encode()).hexdigest()[:12]}"
    store = Store(storage).child(place)
    if not store.exists("made.json"):
        store.delete("")
        kind.make(store, recipe, lambda _: None)
    return store.uri
