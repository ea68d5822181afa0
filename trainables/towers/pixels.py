"""Pictures as the input of a tower."""

from __future__ import annotations

import torch
from torch import Tensor


def normalised(image_NHW3: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Bytes as the N x 3 x H x W floats that a tower was trained with."""
    means, stds = (torch.tensor(v, device=image_NHW3.device).view(1, 3, 1, 1) for v in (mean, std))
    return (image_NHW3.movedim(-1, 1).float() / 255 - means) / stds
