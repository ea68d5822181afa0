"""Pairs of windows and expressions scored a second: everything encoded once, against every pair encoded."""

from __future__ import annotations

import torch

from ..trainables.choices import KumMode
from ..trainables.ikun.config import Config
from ..trainables.ikun.model import Ikun
from ..trainables.ikun.scoring import Scorer
from ..trainables.layers.kum import MODES
from ..trainables.towers.clip import build
from .common import publish, seconds

OBJECTS, EXPRESSIONS, LOOKS = 10, 50, 2
TARGETS: dict[KumMode | None, int] = {"cascade": 100, "cross_correlation": 100, "text_first": 20}


def main() -> None:
    """RN50 at 224 and 672 pixels, 10 objects a frame, 50 expressions."""
    torch.manual_seed(0)
    towers = build("RN50")
    frames, crops = torch.randn(LOOKS, 3, 672, 672), torch.randn(LOOKS * OBJECTS, 3, 224, 224)
    frame_of = torch.arange(LOOKS).repeat_interleave(OBJECTS)
    looked = torch.arange(OBJECTS)[:, None] + torch.arange(LOOKS) * OBJECTS
    tokens = towers.tokenize([f"cars number {i} in the left" for i in range(EXPRESSIONS)])
    rows = []
    for mode in MODES:
        model = Ikun(towers, Config(kum_mode=mode)).eval()
        scorer = Scorer(model, tokens)
        scores = scorer.windows(scorer.crops(frames, crops, frame_of), looked)
        shared_s = seconds(lambda s=scorer: s.windows(s.crops(frames, crops, frame_of), looked), 1)  # type: ignore[misc]
        pair = looked[3]

        def single(m: Ikun = model, p: torch.Tensor = pair) -> torch.Tensor:
            with torch.no_grad():
                return m(crops[p][None], frames[frame_of[p]][None], tokens[7:8]).logit_B[0]

        single_s = seconds(single)
        rows.append(
            {
                "KUM mode": mode,
                "pairs/s": OBJECTS * EXPRESSIONS / shared_s,
                "pairs/s, every pair encoded": 1 / single_s,
                "times": OBJECTS * EXPRESSIONS * single_s / shared_s,
                "target": f">= {TARGETS[mode]}",
                "largest difference": float((scores[3, 7] - single()).abs()),
            }
        )
    title = f"scoring, RN50 224/672, {OBJECTS} objects a frame, {EXPRESSIONS} expressions, float32"
    publish("scoring", title, rows)
