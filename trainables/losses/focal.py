"""Focal loss. Shapes: B pairs."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812  its usual name
from torch import Tensor


def focal_bce(logit_B: Tensor, label_B: Tensor, gamma: float, rho: float | None) -> Tensor:
    """Focal binary cross-entropy, summed over the batch (arXiv 1708.02002, eq. 4), in nats.

    `gamma` 0 is plain cross-entropy; `rho` weighs the positives, None is 1.
    """
    bce_B = F.binary_cross_entropy_with_logits(logit_B, label_B, reduction="none")
    # 1 - p_true, exact where p_true is nearly 1; a root's slope is infinite at 0
    p_false_B = -torch.expm1(-bce_B)
    weight_B = p_false_B.clamp_min(1e-30) ** gamma if gamma else torch.ones_like(bce_B)
    if rho is not None:
        weight_B = weight_B * torch.where(label_B > 0, rho, 1.0)
    return (weight_B * bce_B).sum()
