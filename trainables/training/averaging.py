"""The exponential moving average of a model's weights, and the model as it is evaluated."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn


class AveragedWeights:
    """A copy of a model whose parameters follow the model's: mean = decay * mean + (1 - decay) * value after every move
    of the weights. Buffers are the model's last."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).requires_grad_(False)
        self._source, self._decay = model, decay

    @torch.no_grad()
    def update(self) -> None:
        """Follows a move of the model's weights."""
        for mean, value in zip(self.model.parameters(), self._source.parameters(), strict=True):
            mean.lerp_(value, 1 - self._decay)
        for ours, theirs in zip(self.model.buffers(), self._source.buffers(), strict=True):
            ours.copy_(theirs)

    def state(self) -> dict[str, Tensor]:
        """Parameters and buffers, for a checkpoint."""
        return self.model.state_dict()

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Takes over what `state` gave."""
        self.model.load_state_dict(state)


class Evaluated:
    """A context in which a model is in eval mode and holds its averaged weights, if there are any. After it the model
    has its own weights again and is in training mode."""

    def __init__(self, model: nn.Module, average: AveragedWeights | None) -> None:
        self.model, self.average = model, average
        self.own: dict[str, Tensor] = {}

    def __enter__(self) -> nn.Module:
        if self.average is not None:
            self.own = {name: value.clone() for name, value in self.model.state_dict().items()}
            self.model.load_state_dict(self.average.state())
        return self.model.eval()

    def __exit__(self, *_: object) -> None:
        if self.average is not None:
            self.model.load_state_dict(self.own)
        self.model.train()
