"""A trained model as a folder: weights, and all that is needed to use them. Read and written without pickles.

model.safetensors   the weights that were evaluated
package.json        trainable, Config, post-hoc setting, facts of its Task, where it comes from
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor, nn

from ...datasets.problems import InputError
from ...datasets.storage.store import Store

MODEL, PACKAGE = "model.safetensors", "package.json"
FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """A trained model: weights by name, and all that is needed to use them."""

    trainable: str
    config: Mapping[str, Any]
    setting: Mapping[str, float]  # post hoc
    facts: Mapping[str, Any]  # of `Task.facts`
    origin: Mapping[str, Any]  # sweep, trial, data fingerprint, metrics: for people
    weights: Mapping[str, Tensor]

    def write(self, store: Store) -> None:
        """Writes it into a folder or prefix."""
        tensors = {key: value.detach().cpu().contiguous() for key, value in self.weights.items()}
        store.write(MODEL, save_safetensors(tensors))
        content = {"format": FORMAT, "trainable": self.trainable, "config": dict(self.config)}
        content |= {"setting": dict(self.setting), "facts": dict(self.facts), "origin": dict(self.origin)}
        store.write(PACKAGE, json.dumps(content, indent=1).encode())

    @classmethod
    def read(cls, store: Store) -> Package:
        """Reads one from a folder or prefix. Raises InputError when there is none, or it is another version's."""
        try:
            content = json.loads(store.read(PACKAGE))
            if content["format"] != FORMAT:
                raise InputError(f"{store.uri} is a package of format {content['format']}, this version reads {FORMAT}")
            return cls(
                trainable=content["trainable"],
                config=content["config"],
                setting=content["setting"],
                facts=content["facts"],
                origin=content["origin"],
                weights=load_safetensors(store.read(MODEL)),
            )
        except FileNotFoundError:
            raise InputError(f"no model at {store.uri}: {PACKAGE} or {MODEL} is missing") from None
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise InputError(f"{store.uri}/{PACKAGE} is not what was written: {error!r}") from None


def load_package_weights(model: nn.Module, uri: str) -> None:
    """Loads the weights of a package into a model. Raises InputError when they don't fit."""
    try:
        model.load_state_dict(dict(Package.read(Store(uri)).weights))
    except RuntimeError as error:
        raise InputError(f"init: the model at {uri} does not fit this Config: {error}") from None
