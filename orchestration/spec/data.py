"""A sweep's data: where it is, made if it is procedural, its fingerprint, its check."""

from __future__ import annotations

import hashlib

from ...datasets import recipes
from ...datasets.discovery import maker
from ...datasets.fingerprint import fingerprint
from ...datasets.storage.store import Store
from ...trainables import discovery
from .schema import SweepSpec


def data_of(spec: SweepSpec) -> str | None:
    """URI of a sweep's data, None for `data: none`; procedural data is made if it is missing. Raises InputError."""
    if spec.data == "none":
        return None
    return place_of(spec.data, spec.storage)


def place_of(uri: str, storage: str) -> str:
    """URI of data: `made:...` lies below `storage` and is made if it is missing, any other is `uri` itself.

    Raises InputError for a `made:` that can't be followed.
    """
    return _made(uri, storage) if uri.startswith("made:") else uri


def prepare_data(spec: SweepSpec) -> tuple[str | None, str]:
    """(URI of a sweep's data or None, its fingerprint or `none`). Makes procedural data if it is missing.

    Raises InputError for data that is missing, DataError with everything that its trainable's check finds.
    """
    uri = data_of(spec)
    if uri is None:
        return None, "none"
    store = Store(uri)
    data_fingerprint = fingerprint(store)
    discovery.check_data(spec.trainable, store, spec.fixed)
    return uri, data_fingerprint


def _made(uri: str, storage: str) -> str:
    """URI of `made:refer-kitti?videos=6`: a folder that is named after the recipe. `made.json` is written last."""
    kind, recipe = recipes.from_uri(uri)
    folder = f"made/{kind}-{hashlib.sha256(repr(recipe).encode()).hexdigest()[:12]}"
    store = Store(storage).child(folder)
    if not store.exists("made.json"):
        store.delete("")
        maker(kind).make(store, recipe, lambda _: None)
    return store.uri
