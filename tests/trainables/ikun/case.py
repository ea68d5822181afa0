"""A few made driving scenes, and an iKUN small enough to train on them in a test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from refsweep.datasets.made.refer_kitti import Recipe, make
from refsweep.datasets.storage.store import Store
from refsweep.datasets.stream import Arrays
from refsweep.tests.trainables.tools import Case, Changed

TINY: dict[str, Any] = {
    "tower": "conv-tiny",
    "weights": None,
    "freeze_text": False,
    "crop_px": 32,
    "frame_px": 32,
    "feature_dim": 16,
    "batch": 8,
    "epochs": 2,
    "lr": 1e-3,
    "expressions_per_window": 3,
    "positive_share": 0.5,
    "windows_per_track": 1,
    "calibration_thresholds": 8,
}


def write_scenes(folder: Path) -> None:
    """Six videos of 16 frames."""
    make(Store(str(folder)), Recipe(videos=6, frames=16, width=160, expressions=6, seed=3))


def at_random(predictions: Arrays, rng: np.random.Generator) -> Arrays:
    """Scores of windows, -1..1."""
    return {"score": rng.uniform(-1, 1, predictions["score"].shape).astype(np.float32)}


VIT = {"tower": "ViT-tiny"}
CASE = Case(
    config=TINY,
    write_data=write_scenes,
    variants=[{"kum_mode": "text_first", "dropout": 0.3, "geometry": True, "ema": 0.9, "accumulate": 2}],
    changes={
        "tower": "ViT-tiny",
        "lora_rank": Changed(value=2, given=VIT),
        "lora_alpha": Changed(value=4.0, given={**VIT, "lora_rank": 2}),
        "crop_px": 48,
        "frame_px": 48,
        "feature_dim": 24,
        "heads": 2,
        "text_tokens": Changed(value=3, given={"kum_mode": "cascade"}),
        "dropout": Changed(value=0.5, given={"kum_mode": "cross_correlation"}),
        "guidance_start": Changed(value=0.5, given={"kum_mode": "cascade"}),
        "eval_normalises_text": Changed(value=True, given={"kum_mode": "cross_correlation"}),
        "window_frames": 4,
        "window_stride": 8,
        "looks": 4,
        "tracks": "elsewhere",
        "calibration_a": (0.0, 5.0),
        "calibration_tau": Changed(value=(300.0,), given={"calibration_a": (5.0,), "calibration_tau": (10.0,)}),
        "calibration_thresholds": 20,
    },
    guess=at_random,
    settings=({"a": 0.0, "tau": 10.0, "threshold": -1.0}, {"a": 0.0, "tau": 10.0, "threshold": 1.0}),
    worker_tolerance=1e-2,  # batch norm in training is over each worker's own rows
)
