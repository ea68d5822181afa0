"""Predictions of mm_reid over an evaluation's plan: the feature of every sample, before fusion."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ...datasets.stream import Arrays
from .model import MmReid


class SampleFeatures:
    """Rows of an evaluation's plan, one sample each, to features; each row for itself."""

    def __init__(self, model: MmReid) -> None:
        self.model = model

    @torch.no_grad()
    def __call__(self, arrays: Mapping[str, Any]) -> Arrays:
        """`feature`, N x D."""
        device = next(self.model.parameters()).device
        batch = {name: torch.as_tensor(array).to(device) for name, array in arrays.items()}
        grid_BMD, there_BM = self.model.encode_batch(batch)
        return {"feature": grid_BMD[there_BM].float().cpu().numpy()}
