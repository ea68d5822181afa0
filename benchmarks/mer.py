"""MER over the four image modalities: one mixed pass against one pass each, with equal outputs.

On a GPU too, where there is one. Passes of both kinds take turns, so that a busy machine slows both alike.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..trainables.layers.mer import Mer
from ..trainables.towers.clip import build
from .common import publish

MODALITIES, WIDTH = 4, 768
# name, tokens, images of each modality, times: 129 tokens are 256 x 128 pixels at patches of 16
CASES = (
    ("ViT-B/16, 129 tokens", 129, 4, 25, 0.9),
    ("ViT-B/16, 20 tokens, one image", 20, 1, 51, 1.5),
)


def main() -> None:
    """ViT-B/16's twelve blocks at rank 4, without gradients."""
    torch.manual_seed(0)
    visual: Any = build("ViT-B-16").visual
    mer = Mer(visual.transformer, MODALITIES, (4,), (1.0,))
    for name, parameter in mer.named_parameters():
        if "up_" in name:
            parameter.data.normal_(std=0.02)
    rows = []
    for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        visual.to(device).eval()
        mer.to(device).eval()
        rows += [_row(visual.transformer, mer, device, *case) for case in CASES]
    publish("mer", "MER: one mixed pass over four modalities against one pass each, rank 4, float32", rows)


@torch.no_grad()
def _row(
    transformer: Any, mer: Mer, device: str, name: str, tokens: int, images: int, repeat: int, target: float
) -> dict[str, Any]:
    state_NLD = torch.randn(MODALITIES * images, tokens, WIDTH, device=device)
    modality_N = torch.arange(MODALITIES, device=device).repeat(images)
    own = [(state_NLD[modality_N == m], modality_N[modality_N == m]) for m in range(MODALITIES)]

    def together() -> Tensor:
        return mer(transformer, state_NLD, modality_N)

    def each() -> list[Tensor]:
        return [mer(transformer, state, modality) for state, modality in own]

    largest = max(float((together()[modality_N == m] - alone).abs().max()) for m, alone in enumerate(each()))
    one_s, four_s = _in_turns(together, each, repeat, device)
    return {
        "case": name,
        "device": device,
        "images": len(state_NLD),
        "images/s, one pass": len(state_NLD) / one_s,
        "images/s, one pass each": len(state_NLD) / four_s,
        "times": four_s / one_s,
        "target": f">= {target}" if device == "cpu" else "",
        "largest difference": largest,
    }


def _in_turns(one: Callable[[], Any], other: Callable[[], Any], repeat: int, device: str) -> tuple[float, float]:
    """Median seconds of both."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeat):
        for what, seconds in zip((one, other), times, strict=True):
            if device == "cuda":
                torch.cuda.synchronize()
            began = time.perf_counter()
            what()
            if device == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - began)
    return sorted(times[0])[repeat // 2], sorted(times[1])[repeat // 2]
