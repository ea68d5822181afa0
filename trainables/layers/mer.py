"""MER: a low-rank update a modality of every weight of a ViT's blocks, modalities mixed in one pass.

The update is LoRA's (arXiv 2106.09685): W x + alpha / rank * B_m A_m x, with A_m, B_m those of the image's
modality m. The shared weight meets the whole batch in one multiplication; A and B are small enough to be handed out
to each image and multiplied image by image. Tried beside it: all modalities' A as one matrix, with a mask before B,
which does four times the work on thin matrices and was no faster.

Shapes: N images, L tokens, I and O widths of a weight, M modalities, R rank, P parts of a weight (q, k and v are
three parts of one), Q = P x R, D width.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  its usual name
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Route:
    """Which modality each image of a batch has."""

    modality_N: Tensor
    mask_NM: Tensor  # 1 at the image's modality
    only: int | None  # the modality, where all images have the same

    @classmethod
    def of(cls, modality_N: Tensor, modalities: int) -> Route:
        """The route of N images from the numbers of their modalities."""
        first = int(modality_N[0]) if len(modality_N) else 0
        only = first if bool((modality_N == first).all()) else None
        return cls(modality_N, F.one_hot(modality_N, modalities).float(), only)

    def hand_out(self, weight_MXY: Tensor) -> Tensor:
        """Each image's own of the modalities' weights, N x X x Y. A product with ones and zeros is exact, and its
        gradient, unlike that of an index, is added up in the same order every time; without one an index is faster."""
        if self.only is not None:
            return weight_MXY[self.only].expand(len(self.mask_NM), -1, -1)
        if not torch.is_grad_enabled():
            return weight_MXY.index_select(0, self.modality_N)
        return (self.mask_NM @ weight_MXY.flatten(1)).view(-1, *weight_MXY.shape[1:])


class RoutedUpdate(nn.Module):
    """What a weight of (P O) x I is changed by, in each modality. Starts as nothing: A is Kaiming's, B zero."""

    def __init__(self, modalities: int, in_dim: int, out_dim: int, *, rank: int, alpha: float, parts: int = 1) -> None:
        super().__init__()
        if not 1 <= rank <= 64:
            raise ValueError(f"rank must be in 1..64, got {rank}")
        self.parts, self.scale = parts, alpha / rank
        self.down_MQI = nn.Parameter(torch.empty(modalities, parts * rank, in_dim))
        self.up_MQO = nn.Parameter(torch.zeros(modalities, parts * rank, out_dim))
        for down_QI in self.down_MQI.data:
            nn.init.kaiming_uniform_(down_QI, a=5**0.5)

    def forward(self, x_NLI: Tensor, weight_OI: Tensor, bias_O: Tensor, route: Route) -> tuple[Tensor, ...]:
        """The adapted weight's product, part by part, each N x L x O."""
        base = F.linear(x_NLI, weight_OI, bias_O)
        up_NQO = route.hand_out(self.up_MQO)
        small_NLQ = torch.bmm(x_NLI, route.hand_out(self.down_MQI).mT)
        if self.parts == 1:
            return (torch.baddbmm(base, small_NLQ, up_NQO, alpha=self.scale),)
        parts = zip(*(x.chunk(self.parts, dim) for x, dim in ((base, -1), (small_NLQ, -1), (up_NQO, 1))), strict=True)
        return tuple(torch.baddbmm(part, small, up, alpha=self.scale) for part, small, up in parts)

    def of(self, modality: int) -> Tensor:
        """The update of one modality as a matrix, (P O) x I."""
        up_PRO, down_PRI = (torch.stack(x[modality].chunk(self.parts)) for x in (self.up_MQO, self.down_MQI))
        return self.scale * (up_PRO.mT @ down_PRI).flatten(0, 1)


class BlockUpdate(nn.Module):
    """The updates of one block: q, k, v, output projection, both MLP layers."""

    def __init__(self, block: Any, modalities: int, *, rank: int, alpha: float) -> None:
        super().__init__()
        width, hidden = block.attn.embed_dim, block.mlp.c_fc.out_features
        self.qkv = RoutedUpdate(modalities, width, width, rank=rank, alpha=alpha, parts=3)
        self.out = RoutedUpdate(modalities, width, width, rank=rank, alpha=alpha)
        self.fc = RoutedUpdate(modalities, width, hidden, rank=rank, alpha=alpha)
        self.proj = RoutedUpdate(modalities, hidden, width, rank=rank, alpha=alpha)

    def forward(self, block: Any, state_NLD: Tensor, route: Route) -> Tensor:
        """The block of open_clip with the updates in its weights."""
        attn, mlp = block.attn, block.mlp
        parts = self.qkv(block.ln_1(state_NLD), attn.in_proj_weight, attn.in_proj_bias, route)
        q, k, v = (part.unflatten(-1, (attn.num_heads, -1)).transpose(1, 2) for part in parts)
        mixed_NLD = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        (out_NLD,) = self.out(mixed_NLD, attn.out_proj.weight, attn.out_proj.bias, route)
        state_NLD = state_NLD + block.ls_1(out_NLD)
        (hidden_NLH,) = self.fc(block.ln_2(state_NLD), mlp.c_fc.weight, mlp.c_fc.bias, route)
        (out_NLD,) = self.proj(mlp.gelu(hidden_NLH), mlp.c_proj.weight, mlp.c_proj.bias, route)
        return state_NLD + block.ls_2(out_NLD)


class Mer(nn.Module):
    """The updates of a transformer of open_clip, whose own weights stay where they are.

    `ranks` and `alphas` have one value for every block or one a block; a block of rank 0 is shared by all modalities
    as it is. Raises ValueError for another count.
    """

    def __init__(self, transformer: Any, modalities: int, ranks: Sequence[int], alphas: Sequence[float]) -> None:
        super().__init__()
        count = len(transformer.resblocks)
        self.modalities = modalities
        made = zip(transformer.resblocks, per_block(ranks, count), per_block(alphas, count), strict=True)
        self.blocks = nn.ModuleList(
            BlockUpdate(block, modalities, rank=rank, alpha=alpha) if rank else nn.Identity()
            for block, rank, alpha in made
        )

    def forward(self, transformer: Any, state_NLD: Tensor, modality_N: Tensor) -> Tensor:
        """States after the last block, N x L x D; `modality_N` is the modality of each image."""
        route = Route.of(modality_N, self.modalities)
        for block, update in zip(transformer.resblocks, self.blocks, strict=True):
            adapted = isinstance(update, BlockUpdate)
            state_NLD = update(block, state_NLD, route) if adapted else block(state_NLD)
        return state_NLD

    @torch.no_grad()
    def folded(self, transformer: nn.Module, modality: int) -> nn.Module:
        """A copy of the transformer with one modality's updates in its weights: the same numbers, at no cost."""
        made: Any = copy.deepcopy(transformer)
        for block, update in zip(made.resblocks, self.blocks, strict=True):
            if isinstance(update, BlockUpdate):
                block.attn.in_proj_weight += update.qkv.of(modality)
                block.attn.out_proj.weight += update.out.of(modality)
                block.mlp.c_fc.weight += update.fc.of(modality)
                block.mlp.c_proj.weight += update.proj.of(modality)
        return made


def per_block(values: Sequence[Any], count: int) -> list[Any]:
    """One value a block, from one for all or one each. Raises ValueError for another count."""
    if len(values) not in (1, count):
        raise ValueError(f"values must be one for all blocks or one for each of the {count}, got {len(values)}")
    return list(values) * (count if len(values) == 1 else 1)
