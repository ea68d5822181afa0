"""A picture as two features, of identity and of clothing, beside the descriptions of either.

The clothing branch stands on a gradient reversal: see `layers.gradient_reversal` for what that means to the trunk.

Shapes: B pictures, E texts, P pairs, H x W pixels, L patches, T words, W width of the towers, D width of an embedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F  # noqa: N812  its usual name
from torch import Tensor, nn

from ..layers.fusion import AttentionGatedFusion
from ..layers.gradient_reversal import reverse_gradient
from ..reid.classifier import IdentityClassifier, load_all_but_classifier
from ..towers.pixels import normalised
from ..towers.sizes import image_sizes, text_sizes
from ..towers.text import TextTower
from ..towers.vit import MEAN, STD, ImageTower
from ..training.parameters import trained, trained_but
from .config import Config


@dataclass(frozen=True, slots=True)
class Pictures:
    """Encoded pictures; embeddings have length 1."""

    id_BW: Tensor  # before the MLPs: what a probe looks at
    cloth_BW: Tensor
    image_BD: Tensor  # the embedding that is searched
    cloth_image_BD: Tensor
    patch_BLD: Tensor | None  # for fusion of tokens

    def take(self, rows: Tensor) -> Pictures:
        """Some rows of them."""
        patch_BLD = None if self.patch_BLD is None else self.patch_BLD[rows]
        return Pictures(
            self.id_BW[rows], self.cloth_BW[rows], self.image_BD[rows], self.cloth_image_BD[rows], patch_BLD
        )


@dataclass(frozen=True, slots=True)
class Texts:
    """Encoded texts; embeddings have length 1."""

    text_ED: Tensor
    word_ETD: Tensor | None  # for fusion of tokens
    word_mask_ET: Tensor | None

    def take(self, rows: Tensor | slice) -> Texts:
        """Some rows of them."""
        if self.word_ETD is None or self.word_mask_ET is None:
            return Texts(self.text_ED[rows], None, None)
        return Texts(self.text_ED[rows], self.word_ETD[rows], self.word_mask_ET[rows])


class T2iReid(nn.Module):
    """Both towers and all that is trained above them, the projectors of the losses included."""

    def __init__(self, image: ImageTower, text: TextTower, identities: int, config: Config) -> None:
        super().__init__()
        width, shared_dim, embed_dim = image.sizes.width, config.shared_dim, config.embed_dim
        self.image_tower, self.text_tower, self.config = image, text, config
        self.id_projection, self.cloth_projection = nn.Linear(width, width), nn.Linear(width, width)
        self.classifier = IdentityClassifier(width, identities)
        self.shared_mlp = nn.Linear(width, shared_dim)
        self.image_mlp, self.text_mlp = (_mlp(shared_dim, embed_dim, config.dropout) for _ in range(2))
        # of the losses: parts of the model, so that they are trained, saved and moved with it
        self.bio_projector, self.cloth_projector = nn.Linear(width, embed_dim), nn.Linear(width, embed_dim)
        self.decouple_id, self.decouple_cloth = nn.Linear(width, embed_dim), nn.Linear(width, embed_dim)
        self.adversary = nn.Linear(width, embed_dim)
        if config.fusion is not None:
            self.fusion = AttentionGatedFusion(embed_dim, embed_dim, config.fusion_heads, config.fusion_dropout)
            self.match = nn.Linear(embed_dim, 1)
        if config.fusion == "tokens":
            self.patch_projection, self.word_projection = nn.Linear(width, embed_dim), nn.Linear(width, embed_dim)

    def encode_images(self, image_BHW3: Tensor, alpha: float = 0.0) -> Pictures:
        """Encodes B pictures of bytes; `alpha` is the strength of the reversal under the clothing feature."""
        whole_BW, patch_BLW = self.image_tower(normalised(image_BHW3, MEAN, STD))
        id_BW = F.relu(self.id_projection(whole_BW))
        cloth_BW = F.relu(reverse_gradient(self.cloth_projection(whole_BW), alpha))
        return Pictures(
            id_BW,
            cloth_BW,
            F.normalize(self.image_mlp(self.shared_mlp(id_BW)), dim=-1),
            F.normalize(self.image_mlp(self.shared_mlp(cloth_BW)), dim=-1),
            self.patch_projection(patch_BLW) if self.config.fusion == "tokens" else None,
        )

    def encode_texts(self, ids_ET: Tensor) -> Texts:
        """Encodes E texts of token ids, E x T, 0 after the end."""
        whole_EW, word_ETW, mask_ET = self.text_tower(ids_ET)
        text_ED = F.normalize(self.text_mlp(self.shared_mlp(whole_EW)), dim=-1)
        if self.config.fusion != "tokens":
            return Texts(text_ED, None, None)
        return Texts(text_ED, self.word_projection(word_ETW), mask_ET)

    def matching(self, pictures: Pictures, texts: Texts) -> Tensor:
        """The logit that picture and text belong together, from their fused feature, P; rows are pairs."""
        fused_PD = self.fusion(pictures.image_BD, texts.text_ED, pictures.patch_BLD, texts.word_ETD, texts.word_mask_ET)
        return self.match(fused_PD)[:, 0]

    def param_groups(self) -> list[dict[str, Any]]:
        """The towers with their own learning rate; the rest, the projectors of the losses among it."""
        towers = [*trained(self.image_tower), *trained(self.text_tower)]
        c = self.config
        tower_lr = c.lr if c.tower_lr is None else c.tower_lr
        return [{"params": towers, "lr": tower_lr}, {"params": trained_but(self, towers)}]


def _mlp(inner: int, outer: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.BatchNorm1d(inner),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(inner, outer),
        nn.BatchNorm1d(outer),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(outer, outer),
    )


def build_model(config: Config, identities: int) -> T2iReid:
    """The model of a Config, with its weights. Raises InputError when they don't fit."""
    image = ImageTower(image_sizes(config.tower), config.height_px, config.width_px, config.weights)
    model = T2iReid(image, TextTower(text_sizes(config.text_tower), config.text_weights), identities, config)
    if config.init is not None:
        load_all_but_classifier(model, config.init)
    return model
