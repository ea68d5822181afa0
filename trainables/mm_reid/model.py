"""CLIP with MER, an SDM head, masked fusion and a BNNeck: one feature of a person from any of five modalities.

One path serves training and evaluation, a gallery's single modality and a query's several: head, fusion, BNNeck.

Shapes: N images, H x W pixels, E texts, T tokens, L places, D the feature's width; B rows, S sets, M modalities
(vis, nir, sk, cp, text in this order), I identities.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..layers.masked_fusion import MaskedFusion
from ..layers.mer import Mer
from ..reid.classifier import IdentityClassifier
from ..reid.images import normalised
from ..towers.clip import MEAN, STD, ClipTowers, vit_states
from .tokenizers import CHANNELS, Tokenizers

MODALITIES = (*CHANNELS, "text")
TEXT = len(CHANNELS)


class SdmHead(nn.Module):
    """A pooled state looks at all states of its image or text; their sum is projected (semantic separation)."""

    def __init__(self, width: int, out: int, *, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm_in, self.norm_out = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, dropout=dropout, batch_first=True)
        self.project = nn.Linear(width, out)

    def forward(self, pooled_NE: Tensor, state_NLE: Tensor, padding_NL: Tensor | None = None) -> Tensor:
        """N x D; padding is not looked at."""
        key_NLE = self.norm_in(state_NLE)
        query_N1E = self.norm_in(pooled_NE)[:, None]
        found_N1E, _ = self.attention(query_N1E, key_NLE, key_NLE, padding_NL, need_weights=False)
        return self.project(self.norm_out(pooled_NE + found_N1E[:, 0]))


class MmReid(nn.Module):
    """The model. Raises ValueError where ranks or alphas are neither one nor one a block."""

    def __init__(
        self,
        clip: ClipTowers,
        identities: int,
        *,
        ranks: Sequence[int] = (4,),
        alphas: Sequence[float] = (1.0,),
        width: int = 512,
        heads: int = 8,
        fusion_depth: int = 1,
        fusion_ratio: float = 2.0,
        fusion_dropout: float = 0.1,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        visual: Any = clip.visual
        self.clip = clip
        self.tokenizers = Tokenizers(visual.conv1)
        self.mer = Mer(visual.transformer, len(CHANNELS), ranks, alphas)
        self.head = SdmHead(clip.sizes.embed_dim, width, heads=heads, dropout=fusion_dropout)
        self.fusion = MaskedFusion(
            len(MODALITIES), width, depth=fusion_depth, heads=heads, ratio=fusion_ratio, dropout=fusion_dropout
        )
        self.neck = nn.BatchNorm1d(width)
        self.neck.bias.requires_grad_(False)
        self.dropout = nn.Dropout(dropout)
        self.classifier = IdentityClassifier(width, identities, bias=False)
        nn.init.normal_(self.classifier.weight, std=0.01)
        visual.conv1.requires_grad_(False)  # the tokenizers stand in its place

    @property
    def width(self) -> int:
        """Of a feature."""
        return self.neck.num_features

    def encode_images(self, image_NHWC: Tensor, modality_N: Tensor) -> Tensor:
        """Features of images of mixed modalities in one pass, N x D; bytes, RGB."""
        if not len(image_NHWC):
            return self._nothing()
        visual: Any = self.clip.visual
        patch_NDHW = self.tokenizers(normalised(image_NHWC, MEAN, STD), modality_N)
        state_NLD = vit_states(visual, patch_NDHW, lambda s: self.mer(visual.transformer, s, modality_N))
        state_NLE = state_NLD @ visual.proj
        return self.head(state_NLE[:, 0], state_NLE)

    def encode_texts(self, tokens_ET: Tensor) -> Tensor:
        """Features of texts, E x D. They never meet MER."""
        if not len(tokens_ET):
            return self._nothing()
        state_ETE, end_EE = self.clip.encode_text(tokens_ET, tokens_ET.shape[1])
        place_T = torch.arange(tokens_ET.shape[1], device=tokens_ET.device)
        return self.head(end_EE, state_ETE, place_T > tokens_ET.argmax(-1, keepdim=True))

    def fuse(self, feature_SMD: Tensor, there_SM: Tensor) -> tuple[Tensor, Tensor]:
        """(features before the BNNeck, bn_features), S x D each, of sets of modality features."""
        raw_SD = self.fusion(feature_SMD, there_SM)
        return raw_SD, self.neck(raw_SD)

    def _nothing(self) -> Tensor:
        return self.neck.weight.new_zeros(0, self.width)

    def classify(self, bn_SD: Tensor) -> Tensor:
        """Logits of training identities, S x I."""
        return self.classifier(self.dropout(bn_SD))
