"""Several modalities of one person into one feature, however many of them there are.

Shapes: S sets, M modalities, D width, H hidden width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class MixerBlock(nn.Module):
    """Attention over the modalities that are there, then an MLP-mixer (arXiv 2105.01601): across modalities, then
    across features."""

    def __init__(self, modalities: int, width: int, *, heads: int, ratio: float, dropout: float) -> None:
        super().__init__()
        self.norm_attention, self.norm_tokens, self.norm_features = (nn.LayerNorm(width) for _ in range(3))
        self.attention = nn.MultiheadAttention(width, heads, dropout=dropout, batch_first=True)
        self.tokens = _mlp(modalities, 4 * modalities, dropout)
        self.features = _mlp(width, round(ratio * width), dropout)

    def forward(self, state_SMD: Tensor, missing_SM: Tensor) -> Tensor:
        normed_SMD = self.norm_attention(state_SMD)
        attended_SMD, _ = self.attention(normed_SMD, normed_SMD, normed_SMD, missing_SM, need_weights=False)
        state_SMD = state_SMD + attended_SMD
        state_SMD = state_SMD + self.tokens(self.norm_tokens(state_SMD).mT).mT
        return state_SMD + self.features(self.norm_features(state_SMD))


def _mlp(width: int, hidden: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, width))


class MaskedFusion(nn.Module):
    """One feature of each set of modality features.

    Where a modality is missing stands a learned null token: nobody attends to it and the weighted mean leaves it out;
    the mixer's layer across modalities alone reads it, as the mark of what is missing. A set of one modality goes the
    same way, so that a gallery of one and a query of many are features of one kind.
    """

    def __init__(
        self, modalities: int, width: int, *, depth: int = 1, heads: int = 8, ratio: float = 2.0, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.null_MD = nn.Parameter(torch.randn(modalities, width) * 0.02)
        self.kind_MD = nn.Parameter(torch.randn(modalities, width) * 0.02)  # tells attention which is which
        self.blocks = nn.ModuleList(
            MixerBlock(modalities, width, heads=heads, ratio=ratio, dropout=dropout) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)
        self.weigh = nn.Linear(width, 1)

    def forward(self, feature_SMD: Tensor, there_SM: Tensor) -> Tensor:
        """S x D of features; what stands in `feature_SMD` where a modality is missing is never read.

        Raises ValueError for a set without any modality.
        """
        if not bool(there_SM.any(1).all()):
            raise ValueError("each set must have at least one modality, got one without")
        null_MD = self.null_MD.to(feature_SMD.dtype)
        state_SMD = torch.where(there_SM[..., None], feature_SMD + self.kind_MD.to(feature_SMD.dtype), null_MD)
        for block in self.blocks:
            state_SMD = block(state_SMD, ~there_SM)
        state_SMD = self.norm(state_SMD)
        weight_SM1 = self.weigh(state_SMD).masked_fill(~there_SM[..., None], -torch.inf).softmax(1)
        return (weight_SM1 * state_SMD).sum(1)
