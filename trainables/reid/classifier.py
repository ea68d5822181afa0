"""Which person is it: a linear layer over the identities of a training set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ...datasets.problems import InputError
from ...datasets.storage.store import Store
from ..training.package import Package


class IdentityClassifier(nn.Linear):
    """N x D features to N x identities. It takes the number of identities of the weights it loads: a trained model
    is measured on data with other people, where the classifier has no say."""

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        given = state_dict.get(f"{prefix}weight")
        if given is not None and given.shape[1:] == self.weight.shape[1:] and len(given) != len(self.weight):
            self.out_features = len(given)
            self.weight = nn.Parameter(torch.empty_like(given, device=self.weight.device))
            if self.bias is not None:
                self.bias = nn.Parameter(torch.empty(len(given), device=self.weight.device))
        super()._load_from_state_dict(state_dict, prefix, *rest)


def load_all_but_classifier(model: nn.Module, uri: str) -> None:
    """Loads a package's weights into a model of other people: its classifiers stay as they are.

    Raises InputError when the rest does not fit.
    """
    ours = model.state_dict()
    kept = {f"{name}." for name, part in model.named_modules() if isinstance(part, IdentityClassifier)}
    given: Mapping[str, Tensor] = Package.read(Store(uri)).weights
    state = {name: ours[name] if name.startswith(tuple(kept)) and name in ours else v for name, v in given.items()}
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise InputError(f"init: the model at {uri} does not fit this Config: {error}") from None
