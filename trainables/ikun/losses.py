"""The training objective of iKUN: focal cross-entropy of (window, expression) pairs.

Shapes: E expressions of a batch, P pairs of a window and one of its expressions, N looks of all windows, G numbers of
geometry.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..losses.focal import focal_bce
from .config import Config
from .model import Ikun, channels_first


def training_losses(
    model: Ikun, config: Config, tokens_ET: Tensor, batch: Mapping[str, Tensor], progress: float
) -> dict[str, Tensor]:
    """`focal`, in nats, summed over the pairs as published. `tokens_ET` are all training expressions."""
    windows, looks = batch["crop"].shape[:2]
    unique_E, expression_P = torch.unique(batch["expression"].flatten(), return_inverse=True)
    text = model.encode_text(tokens_ET.to(unique_E.device)[unique_E])
    place_NG = batch["geometry"].flatten(0, 1) if config.geometry else None
    views = model.encode_views(channels_first(batch["crop"]), channels_first(batch["frame"]), place_NG)
    window_P = torch.arange(windows, device=expression_P.device).repeat_interleave(config.expressions_per_window)
    guided = progress >= config.guidance_start
    out = model.score_pairs(views, text, window_P, expression_P, frames=looks, guided=guided)
    label_P = batch["label"].flatten()
    return {"focal": focal_bce(out.logit_B.float() * config.logit_scale, label_P, config.gamma, config.rho)}
