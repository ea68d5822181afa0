"""A trained model as a folder: weights, and all that is needed to use them. Read and written without pickles.

model.safetensors   the weights that were evaluated
package.json        trainable, Config, post-hoc setting, facts that the trainable needs, where it comes from; sha256 of
                    the weights and of itself, which packages of earlier versions lack
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor, nn

from ...datasets.problems import InputError
from ...datasets.storage.store import Store
from .sealed import DIGEST, BrokenSealError, seal, unseal

MODEL, PACKAGE = "model.safetensors", "package.json"
FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """A trained model."""

    trainable: str
    config: Mapping[str, Any]
    setting: Mapping[str, float]  # post hoc
    facts: Mapping[str, Any]  # what `Task.facts` gave
    origin: Mapping[str, Any]  # sweep, trial, data fingerprint, metrics: for people
    weights: Mapping[str, Tensor]

    def write(self, store: Store) -> None:
        """Writes both files into a folder or prefix."""
        tensors = {key: value.detach().cpu().contiguous() for key, value in self.weights.items()}
        weights = save_safetensors(tensors)
        store.write(MODEL, weights)
        content = {"format": FORMAT, "trainable": self.trainable, "config": dict(self.config)}
        content |= {"setting": dict(self.setting), "facts": dict(self.facts), "origin": dict(self.origin)}
        store.write(PACKAGE, seal({**content, "files": {MODEL: _mark(weights)}}))

    @classmethod
    def read(cls, store: Store) -> Package:
        """The package in a folder or prefix. Raises InputError when there is none, it has another format, or a file of
        it is not what was written."""
        content = _manifest(_content(store, PACKAGE), f"{store.uri}/{PACKAGE}")
        weights = _content(store, MODEL)
        marks = content.get("files", {MODEL: _mark(weights)})
        if marks.get(MODEL) != _mark(weights):
            raise InputError(f"{store.uri}/{MODEL} is not what was written: its size or sha256 is another")
        try:
            tensors = load_safetensors(weights)
        except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
            raise InputError(f"{store.uri}/{MODEL} is not what was written: {error}") from None
        return cls(**{name: content[name] for name in _TYPES}, weights=tensors)

    def load_into(self, model: nn.Module) -> None:
        """Puts the weights into a model. Raises InputError when they don't fit."""
        try:
            model.load_state_dict(dict(self.weights))
        except RuntimeError as error:
            why = " ".join(str(error).split())[:500]
            raise InputError(f"the weights of this {self.trainable} package do not fit its Config: {why}") from None

    def rows_of(self, name: str) -> int:
        """How many rows one of the weights has. Raises InputError when there is none of that name."""
        if name not in self.weights or not self.weights[name].ndim:
            raise InputError(f"the weights of this {self.trainable} package must have {name}, which is missing")
        return len(self.weights[name])


_TYPES = {"trainable": str, "config": dict, "setting": dict, "facts": dict, "origin": dict}


def _mark(content: bytes) -> dict[str, Any]:
    return {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}


def _content(store: Store, file: str) -> bytes:
    try:
        return store.read(file)
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"no model at {store.uri}: {PACKAGE} or {MODEL} is missing") from None
    except OSError as error:
        if error.errno is None:  # object storage that is away, which a trial may wait for
            raise
        raise InputError(f"{store.uri}/{file} can't be read: {error.strerror}") from None


def _manifest(raw: bytes, where: str) -> dict[str, Any]:
    """What a package.json says. Raises InputError when it is not what was written, or of another format."""
    try:
        content = unseal(raw)
    except BrokenSealError as error:
        raise InputError(f"{where} is not what was written: {error}") from None
    if content.get("format") != FORMAT:
        raise InputError(f"{where} is of a package of format {content.get('format')!r}, this version reads {FORMAT}")
    wrong = [name for name, kind in _TYPES.items() if not isinstance(content.get(name), kind)]
    if not isinstance(content.get("files", {}), dict) or ("files" in content) != (DIGEST in content):
        wrong.append(f"files or {DIGEST}")
    if wrong:
        raise InputError(f"{where} is not what was written: {', '.join(wrong)} is missing or of another type")
    return content


def load_package_weights(model: nn.Module, uri: str) -> None:
    """Loads the weights of a package into a model. Raises InputError when they don't fit."""
    try:
        model.load_state_dict(dict(Package.read(Store(uri)).weights))
    except RuntimeError as error:
        raise InputError(f"init: the model at {uri} does not fit this Config: {error}") from None
