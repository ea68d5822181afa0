"""Low-rank adaptation of weight matrices (arXiv 2106.09685)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize


class LowRank(nn.Module):
    """W + alpha / rank * up @ down, for a weight of O x I; starts as W."""

    def __init__(self, weight_OI: Tensor, rank: int, alpha: float) -> None:
        super().__init__()
        out_dim, in_dim = weight_OI.shape
        self.scale = alpha / rank
        self.down_RI = nn.Parameter(torch.empty(rank, in_dim))
        self.up_OR = nn.Parameter(torch.zeros(out_dim, rank))
        nn.init.kaiming_uniform_(self.down_RI, a=5**0.5)

    def forward(self, weight_OI: Tensor) -> Tensor:
        return weight_OI + self.scale * (self.up_OR @ self.down_RI)


def add_lora(modules: Iterable[nn.Module], rank: int, alpha: float) -> int:
    """Adapts every linear layer and attention projection in `modules`, and freezes everything else in them.

    In an attention the stacked q, k, v projection counts as one matrix. Returns how many matrices adapt.
    Raises ValueError for a rank outside 1..64, or where there is nothing to adapt.
    """
    if not 1 <= rank <= 64:
        raise ValueError(f"rank must be in 1..64, got {rank}")
    adapted = 0
    for root in modules:
        root.requires_grad_(False)
        for module in list(root.modules()):
            for name in ("in_proj_weight", "weight"):
                weight = module._parameters.get(name)
                if weight is not None and weight.ndim == 2 and isinstance(module, nn.Linear | nn.MultiheadAttention):
                    parametrize.register_parametrization(module, name, LowRank(weight, rank, alpha))
                    adapted += 1
    if not adapted:
        raise ValueError("nothing to adapt: LoRA needs a tower with linear layers, a ViT")
    return adapted


def merge_lora(root: nn.Module) -> None:
    """Folds every adaptation into its weight; the outputs stay the same, the parameters are gone."""
    for module in list(root.modules()):
        if parametrize.is_parametrized(module):
            for name in list(module.parametrizations):  # type: ignore[arg-type]
                parametrize.remove_parametrizations(module, str(name), leave_parametrized=True)
