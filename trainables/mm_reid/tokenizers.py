"""Patch embeddings that image modalities do not share.

Shapes: N images, C channels, X x Y pixels, D width, K a patch's side.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

CHANNELS = {"vis": 3, "nir": 1, "sk": 1, "cp": 3}  # image modalities in the order of their numbers


class Tokenizers(nn.Module):
    """A patch embedding a modality, each started from CLIP's.

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

    def forward(self, image_NCXY: Tensor, modality_N: Tensor) -> Tensor:
        """Patch states, N x D x X/K x Y/K, of images with one or three channels whatever their modality."""
        found = []
        order = torch.argsort(modality_N, stable=True)
        counts = torch.bincount(modality_N, minlength=len(CHANNELS)).tolist()
        for name, image in zip(CHANNELS, torch.split(image_NCXY[order], counts), strict=True):
            if len(image):
                kernel = self.kernels[name]
                found.append(nn.functional.conv2d(adapted(image, kernel.shape[1]), kernel, stride=self.stride))
        return torch.cat(found)[torch.argsort(order)]


def adapted(image_NCXY: Tensor, channels: int) -> Tensor:
    """Normalised images with one channel or three: their mean, or three equal ones."""
    if image_NCXY.shape[1] == channels:
        return image_NCXY
    return image_NCXY.mean(1, keepdim=True) if channels == 1 else image_NCXY.expand(-1, channels, -1, -1)
