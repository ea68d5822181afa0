"""CLIP with MER, an SDM head, masked fusion and a BNNeck: one feature of a person from any of five modalities.

One path serves training and evaluation, a gallery's single modality and a query's several: head, fusion, BNNeck.

Shapes: N images, H x W pixels, E texts, T tokens, L places, D the feature's width; B rows, S sets, M modalities
(vis, nir, sk, cp, text in this order), I identities.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..layers.masked_fusion import MaskedFusion
from ..layers.mer import Mer
from ..reid.classifier import IdentityClassifier, load_all_but_classifier
from ..towers import clip
from ..towers.clip import MEAN, STD, ClipTowers, vit_states
from ..towers.pixels import normalised
from ..training.parameters import trained, trained_but
from .config import CHANNELS, MODALITIES, TEXT, Config


class Tokenizers(nn.Module):
    """Patch embeddings that image modalities do not share: one each, started from CLIP's.

    A grey one's kernel is the sum of CLIP's three: a grey image is answered as CLIP answers it in three equal channels.
    Their mean, as published, answers with a third of that.
    """

    def __init__(self, patch: nn.Conv2d) -> None:
        super().__init__()
        self.stride, self.width = patch.kernel_size[0], patch.out_channels
        self.kernels = nn.ParameterDict(
            {
                name: nn.Parameter(
                    (patch.weight if channels == 3 else patch.weight.sum(1, keepdim=True)).detach().clone()
                )
                for name, channels in CHANNELS.items()
            }
        )

    def forward(self, image_NCHW: Tensor, modality_N: Tensor) -> Tensor:
        """Patch states, N x D x H/K x W/K for patches of K pixels; images have one or three channels, whatever their
        modality."""
        states = []
        order = torch.argsort(modality_N, stable=True)
        counts = torch.bincount(modality_N, minlength=len(CHANNELS)).tolist()
        for name, image in zip(CHANNELS, torch.split(image_NCHW[order], counts), strict=True):
            if len(image):
                kernel = self.kernels[name]
                states.append(nn.functional.conv2d(adapted(image, kernel.shape[1]), kernel, stride=self.stride))
        return torch.cat(states)[torch.argsort(order)]


def adapted(image_NCHW: Tensor, channels: int) -> Tensor:
    """Normalised images with one channel or three: their mean, or three equal ones."""
    if image_NCHW.shape[1] == channels:
        return image_NCHW
    return image_NCHW.mean(1, keepdim=True) if channels == 1 else image_NCHW.expand(-1, channels, -1, -1)


class SdmHead(nn.Module):
    """A pooled state looks at all states of its image or text; their sum is projected (semantic separation)."""

    def __init__(self, width: int, out: int, *, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm_in, self.norm_out = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, dropout=dropout, batch_first=True)
        self.project = nn.Linear(width, out)

    def forward(self, pooled_NE: Tensor, state_NLE: Tensor, padding_NL: Tensor | None = None) -> Tensor:
        """Features N x D from pooled states and all states; padding is not looked at."""
        key_NLE = self.norm_in(state_NLE)
        query_N1E = self.norm_in(pooled_NE)[:, None]
        seen_N1E, _ = self.attention(query_N1E, key_NLE, key_NLE, padding_NL, need_weights=False)
        return self.project(self.norm_out(pooled_NE + seen_N1E[:, 0]))


class MmReid(nn.Module):
    """The model of a Config on CLIP's towers. Raises ValueError where ranks or alphas are neither one nor one a
    block."""

    def __init__(self, clip: ClipTowers, identities: int, config: Config) -> None:
        super().__init__()
        visual: Any = clip.visual
        self.clip, self.config = clip, config
        self.tokenizers = Tokenizers(visual.conv1)
        self.mer = Mer(visual.transformer, len(CHANNELS), config.ranks, config.alphas)
        self.head = SdmHead(clip.sizes.embed_dim, config.width, heads=config.heads, dropout=config.fusion_dropout)
        self.fusion = MaskedFusion(
            len(MODALITIES),
            config.width,
            depth=config.fusion_depth,
            heads=config.heads,
            ratio=config.fusion_ratio,
            dropout=config.fusion_dropout,
        )
        self.neck = nn.BatchNorm1d(config.width)
        self.neck.bias.requires_grad_(False)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = IdentityClassifier(config.width, identities, bias=False)
        nn.init.normal_(self.classifier.weight, std=0.01)
        visual.conv1.requires_grad_(False)  # the tokenizers stand in its place

    @property
    def width(self) -> int:
        """D, the width of a feature."""
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

    def encode_batch(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Features of a batch's samples at their row and modality, B x M x D, and which are there, B x M."""
        image_ND = self.encode_images(batch["image"], batch["modality"])
        text_ED = self.encode_texts(batch["token"])
        row_N = torch.cat([batch["image_row"], batch["text_row"]])
        modality_N = torch.cat([batch["modality"], torch.full_like(batch["text_row"], TEXT)])
        both_ND = torch.cat([image_ND, text_ED.to(image_ND.dtype)])
        grid_BMD = both_ND.new_zeros(len(batch["label"]), len(MODALITIES), both_ND.shape[1])
        there_BM = torch.zeros(grid_BMD.shape[:2], dtype=torch.bool, device=both_ND.device)
        place = (row_N, modality_N)
        return grid_BMD.index_put(place, both_ND), there_BM.index_put(place, torch.ones_like(row_N, dtype=torch.bool))

    def fuse(self, feature_SMD: Tensor, there_SM: Tensor) -> tuple[Tensor, Tensor]:
        """(features before the BNNeck, bn_features), S x D each, of sets of modality features."""
        raw_SD = self.fusion(feature_SMD, there_SM)
        return raw_SD, self.neck(raw_SD)

    def _nothing(self) -> Tensor:
        return self.neck.weight.new_zeros(0, self.width)

    def classify(self, bn_SD: Tensor) -> Tensor:
        """Logits of training identities, S x I."""
        return self.classifier(self.dropout(bn_SD))

    def param_groups(self) -> list[dict[str, Any]]:
        """CLIP slowly, MER, tokenizers, head and fusion faster, the classifier with a rate of its own."""
        towers, classifier = trained(self.clip), trained(self.classifier)
        return [
            {"params": towers, "lr": self.config.tower_lr},
            {"params": trained_but(self, towers, classifier)},
            {"params": classifier, "lr": self.config.classifier_lr},
        ]


def build_model(config: Config, identities: int) -> MmReid:
    """The model of a Config, with its weights. Raises InputError when they don't fit."""
    towers = clip.build(config.tower, config.weights)
    model = MmReid(towers, identities, config)
    if config.init is not None:
        load_all_but_classifier(model, config.init)
    if config.freeze_image:
        towers.visual.requires_grad_(False)
    if config.freeze_text:
        for part in (towers.transformer, towers.ln_final, towers.token_embedding):
            part.requires_grad_(False)
        towers.positional_embedding.requires_grad_(False)
        towers.text_projection.requires_grad_(False)
    return model
