"""A package is read as it was written, or refused with one sentence."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from refsweep.datasets.problems import InputError
from refsweep.datasets.storage.store import Store
from refsweep.trainables.toy.serve import serve
from refsweep.trainables.training.package import MODEL, PACKAGE, Package
from torch import ones, zeros

WEIGHTS = {"weight": ones(1, 1), "more": zeros(40)}


def made(**weights: object) -> Package:
    fields = {"config": {"epochs": 3}, "setting": {"a": 0.5}, "facts": {"texts": ["é"]}, "origin": {"trial": 3}}
    return Package(trainable="toy", **fields, weights=weights or WEIGHTS)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made().write(store := Store(str(tmp_path)))
    return store


def as_before(store: Store) -> None:
    """As earlier versions wrote it."""
    content = json.loads(store.read(PACKAGE))
    del content["files"], content["digest"]
    store.write(PACKAGE, json.dumps(content, indent=1).encode())


def test_what_is_written_is_read(store: Store):
    package = Package.read(store)
    assert (package.config, package.setting, package.facts) == ({"epochs": 3}, {"a": 0.5}, {"texts": ["é"]})
    assert package.weights["weight"].equal(WEIGHTS["weight"])


def test_a_package_of_before_has_no_digests_and_is_read(store: Store):
    as_before(store)
    assert Package.read(store).weights.keys() == WEIGHTS.keys()


@pytest.mark.parametrize("before", [False, True], ids=["with digests", "as before"])
@pytest.mark.parametrize("file", [PACKAGE, MODEL])
def test_a_torn_package_is_one_sentence(file: str, before: bool, store: Store):
    if before:
        as_before(store)
    whole, rng, refused = store.read(file), np.random.default_rng(3), 0
    for _ in range(200):
        content = bytearray(whole)
        at = int(rng.integers(len(content)))
        kind = rng.integers(3)
        if kind == 0:
            content[at] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            del content[at:]
        else:
            content[at : at + 8] = rng.bytes(8)
        if content == whole:
            continue
        store.local_path(file).write_bytes(content)
        try:
            Package.read(store)
        except InputError as error:
            refused += 1
            assert str(error).count("\n") == 0  # noqa: PT017  that others are raised fails the test
    assert refused == 200 if not before else refused > 60


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[" * 100_000 + b"]" * 100_000, "is not what was written: it is nested too deeply"),
        (b"[1]", "is not what was written: it is no JSON object"),
        (b"\xff\xfe\x00", "is not what was written: it is not JSON"),
        (b'{"format": 7}', "is of a package of format 7, this version reads 1"),
        (b'{"format": 1, "trainable": 3, "config": [], "facts": {}, "origin": {}}', "trainable, config, setting is"),
    ],
)
def test_a_manifest_of_another_kind_is_refused(content: bytes, message: str, store: Store):
    store.local_path(PACKAGE).write_bytes(content)
    with pytest.raises(InputError, match=message):
        Package.read(store)


def test_a_figure_written_by_hand_is_refused(store: Store):
    path = store.local_path(PACKAGE)
    path.write_text(path.read_text().replace("0.5", "-999"))
    with pytest.raises(InputError, match=r"package.json is not what was written: its digest is another"):
        Package.read(store)


def test_other_weights_than_those_that_were_packaged_are_refused(store: Store, tmp_path: Path):
    made(weight=zeros(1, 1), more=zeros(40)).write(other := Store(str(tmp_path / "other")))
    store.write(MODEL, other.read(MODEL))
    with pytest.raises(InputError, match=r"model.safetensors is not what was written: its size or sha256 is another"):
        Package.read(store)


def test_a_place_without_a_package_says_what_is_missing(store: Store, tmp_path: Path):
    for place in (tmp_path / "nowhere", tmp_path / PACKAGE):
        with pytest.raises(InputError, match=r"no model at .*: package.json or model.safetensors is missing"):
            Package.read(Store(str(place)))
    store.local_path(MODEL).unlink()
    with pytest.raises(InputError, match="is missing"):
        Package.read(store)
    store.local_path(MODEL).mkdir()
    with pytest.raises(InputError, match=r"model.safetensors can't be read: Is a directory"):
        Package.read(store)


def test_weights_that_do_not_fit_the_config_are_one_sentence():
    for weights in ({"other": ones(1, 1)}, {"weight": ones(2, 1)}):
        with pytest.raises(InputError, match=r"weights of this toy package do not fit its Config: .*weight") as caught:
            serve(made(**weights))
        assert "\n" not in str(caught.value)
