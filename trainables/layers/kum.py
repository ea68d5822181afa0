"""iKUN's knowledge unification module: how the text conditions the visual tokens (arXiv 2312.16245, sec. 3.2).

Shapes: P (window, expression) pairs times frames; L places of a crop, G of a frame; K text tokens, C channels,
D width of a text feature.

Every mode has the same parts, so that the model need not know which one it holds: `query_key` modulates what
the attention from crop to frame compares, `after` conditions what it gives, and the text comes in as token
states or as one feature (`uses_states`).
"""

from __future__ import annotations

import typing

import torch
from torch import Tensor, nn

from ..choices import KumMode

MODES: tuple[KumMode, ...] = typing.get_args(KumMode)


class Cascade(nn.Module):
    """Tokens times what they attend to in the text: `vis * MHA(vis, text, text)`."""

    uses_states = True
    before = False

    def __init__(self, channels: int, state_dim: int, heads: int) -> None:
        super().__init__()
        self.fc = nn.Linear(state_dim, channels)
        self.attention = nn.MultiheadAttention(channels, heads, batch_first=True)

    def after(self, token_PLC: Tensor, state_PKD: Tensor) -> Tensor:
        """Tokens conditioned on the text, P x L x C."""
        text_PKC = self.fc(state_PKD)
        return token_PLC * self.attention(token_PLC, text_PKC, text_PKC, need_weights=False)[0]


class _Projected(nn.Module):
    """The sentence feature as one value a channel: a 1x1 convolution and a batch norm."""

    uses_states = False

    def __init__(self, channels: int, feature_dim: int, dropout: float) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(nn.Conv1d(feature_dim, channels, 1, bias=False), nn.BatchNorm1d(channels))
        self.dropout = nn.Dropout(dropout)

    def gate(self, feature_PD: Tensor) -> Tensor:
        """One value a channel, P x 1 x C."""
        return self.conv1(feature_PD[..., None]).transpose(1, 2)


class CrossCorrelation(_Projected):
    """`conv2(vis + dropout(vis * text))`."""

    before = False

    def __init__(self, channels: int, feature_dim: int, dropout: float) -> None:
        super().__init__(channels, feature_dim, dropout)
        self.conv2 = nn.Sequential(nn.Conv1d(channels, channels, 1, bias=False), nn.BatchNorm1d(channels))

    def after(self, token_PLC: Tensor, feature_PD: Tensor) -> Tensor:
        """Tokens conditioned on the text, P x L x C."""
        mixed_PLC = token_PLC + self.dropout(token_PLC * self.gate(feature_PD))
        return self.conv2(mixed_PLC.transpose(1, 2)).transpose(1, 2)


class TextFirst(_Projected):
    """Query and key of the attention from crop to frame are multiplied by the text; value and residual are not."""

    before = True

    def modulate(self, token_PLC: Tensor, feature_PD: Tensor) -> Tensor:
        """Tokens as query or key of the attention, P x L x C."""
        return token_PLC * self.dropout(self.gate(feature_PD).expand_as(token_PLC))


Kum = Cascade | CrossCorrelation | TextFirst


def make(
    mode: KumMode | None, *, channels: int, state_dim: int, feature_dim: int, heads: int, dropout: float
) -> Kum | None:
    """The module of a mode; None for none. Raises ValueError for an unknown one."""
    if mode is None:
        return None
    if mode == "cascade":
        return Cascade(channels, state_dim, heads)
    if mode == "cross_correlation":
        return CrossCorrelation(channels, feature_dim, dropout)
    if mode == "text_first":
        return TextFirst(channels, feature_dim, dropout)
    raise ValueError(f"kum_mode must be one of {', '.join(MODES)} or none, got {mode!r}")


def project(attention: nn.MultiheadAttention, part: int, token: Tensor) -> Tensor:
    """Query (0), key (1) or value (2) projection of an attention, applied to ... x C tokens."""
    size = attention.embed_dim
    rows = slice(part * size, (part + 1) * size)
    return torch.nn.functional.linear(token, attention.in_proj_weight[rows], attention.in_proj_bias[rows])
