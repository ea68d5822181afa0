"""Image towers: Hugging Face's ViT (arXiv 2010.11929), and small ones for machines without a GPU.

Shapes: N images, H x W pixels, L places, D width.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  its usual name
from torch import Tensor, nn
from transformers import ViTConfig, ViTModel

from ...datasets.problems import InputError
from .clip import ConvTower
from .hugging_face import check_sizes, load_model
from .sizes import ImageSizes

MEAN, STD = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)


class ImageTower(nn.Module):
    """Images of one size to a feature of the whole and one of each place."""

    def __init__(self, sizes: ImageSizes, height_px: int, width_px: int, weights: str | None = None) -> None:
        super().__init__()
        self.sizes, self.places = sizes, (height_px // sizes.patch) * (width_px // sizes.patch)
        self.body: Any
        if not sizes.layers:
            if weights is not None:
                raise InputError(f"weights of a convolution tower must be null, got {weights!r}")
            self.body = ConvTower(sizes.width)
            # where something is says what it is; a mean over places would have to be told by their edges
            self.whole = nn.Linear(self.places * sizes.width, sizes.width)
        elif weights is None:
            self.body = ViTModel(_config(sizes, height_px, width_px), add_pooling_layer=False)
        else:
            self.body = _pretrained(sizes, height_px, width_px, weights)

    def forward(self, image_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        """(features of whole images N x D, of their places N x L x D)."""
        if not self.sizes.layers:
            place_NLD = self.body(image_NCHW).flatten(2).transpose(1, 2)
            return self.whole(place_NLD.flatten(1)), place_NLD
        state_NLD = self.body(pixel_values=image_NCHW).last_hidden_state
        return state_NLD[:, 0], state_NLD[:, 1:]


def _config(sizes: ImageSizes, height_px: int, width_px: int) -> ViTConfig:
    return ViTConfig(
        hidden_size=sizes.width,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads,
        intermediate_size=4 * sizes.width,
        image_size=(height_px, width_px),
        patch_size=sizes.patch,
    )


def _pretrained(sizes: ImageSizes, height_px: int, width_px: int, weights: str) -> ViTModel:
    """A pretrained ViT whose positions are interpolated to another grid of patches (bicubic)."""
    pretrained = load_model(ViTModel, weights, add_pooling_layer=False)
    wanted = {"hidden_size": sizes.width, "num_hidden_layers": sizes.layers, "patch_size": sizes.patch}
    check_sizes(weights, pretrained.config, {**wanted, "num_attention_heads": sizes.heads})
    model = ViTModel(_config(sizes, height_px, width_px), add_pooling_layer=False)
    state = pretrained.state_dict()
    position = "embeddings.position_embeddings"
    old = pretrained.embeddings.image_size
    state[position] = _resampled(
        state[position],
        (old[0] // sizes.patch, old[1] // sizes.patch),
        (height_px // sizes.patch, width_px // sizes.patch),
    )
    model.load_state_dict(state)
    return model


def _resampled(position_1LD: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    if old == new:
        return position_1LD
    first, rest = position_1LD[:, :1], position_1LD[:, 1:]
    map_1DHW = rest.reshape(1, *old, -1).permute(0, 3, 1, 2)
    map_1DHW = F.interpolate(map_1DHW, size=new, mode="bicubic", antialias=True, align_corners=False)
    return torch.cat([first, map_1DHW.flatten(2).transpose(1, 2)], 1)
