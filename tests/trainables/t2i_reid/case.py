"""A few people in the layout of CUHK-PEDES, and a `t2i_reid` small enough to train on them in a test."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from refsweep.datasets.storage.store import Store
from refsweep.datasets.stream import Arrays
from refsweep.tests.trainables.tools import Case, Changed

SMALL: dict[str, Any] = {
    "tower": "conv-tiny",
    "weights": None,
    "text_tower": "bert-tiny",
    "text_weights": None,
    "height_px": 32,
    "width_px": 16,
    "max_tokens": 40,
    "shared_dim": 16,
    "embed_dim": 16,
    "fusion_heads": 2,
    "fusion_top": 5,
    "epochs": 2,
    "batch": 16,
    "lr": 1e-3,
    "score_batch": 7,
    "rerank_k1": (4,),
    "rerank_k2": (2,),
    "query": "identity",
}

COLOURS = {"red": (200, 30, 30), "green": (30, 160, 30), "blue": (30, 30, 200), "white": (230, 230, 230)}
HAIR = {"dark": (40, 30, 20), "blond": (220, 200, 120), "grey": (150, 150, 150)}
BUILDS = {"slim": 6, "stocky": 12}


def write_people(folder: Path, train: int = 7, val: int = 8, test: int = 4, pictures: int = 3) -> None:
    """Pictures of 48 x 24 and two captions of each. A person keeps build and hair and changes clothes."""
    rng, store = np.random.default_rng(0), Store(str(folder))
    items: list[dict[str, Any]] = []
    for split, count in (("train", train), ("val", val), ("test", test)):
        for _ in range(count):
            identity = len({item["id"] for item in items})
            hair, build = rng.choice(list(HAIR)), rng.choice(list(BUILDS))
            for number in range(pictures):
                top, legs = rng.choice(list(COLOURS), 2)
                pixels = rng.integers(100, 130, (48, 24, 3)).astype(np.uint8)
                left = 12 - BUILDS[build] // 2
                pixels[3:10, 9:15] = HAIR[hair]
                pixels[10:28, left : left + BUILDS[build]] = COLOURS[top]
                pixels[28:46, left : left + BUILDS[build]] = COLOURS[legs]
                content = io.BytesIO()
                Image.fromarray(pixels).save(content, "PNG")
                path = f"{split}/{identity}_{number}.png"
                store.write(f"imgs/{path}", content.getvalue())
                captions = [
                    f"A {build} man with {hair} hair. He is wearing a {top} shirt and {legs} trousers.",
                    f"Wearing {legs} pants and a {top} top, number {number} of {identity}. A {build} man, {hair} hair.",
                ]
                items.append({"split": split, "id": identity, "file_path": path, "captions": captions})
    store.write("caption_all.json", json.dumps(items).encode())


def at_random(predictions: Arrays, rng: np.random.Generator) -> Arrays:
    """Features of length 1 in random directions."""
    feature_ND = rng.standard_normal(predictions["feature"].shape).astype(np.float32)
    return {**predictions, "feature": feature_ND / np.linalg.norm(feature_ND, axis=1, keepdims=True)}


POOLED = {"fusion": "pooled"}
CASE = Case(
    config=SMALL,
    write_data=write_people,
    variants=[
        {"fusion": "tokens", "erase": 0.5, "ema": 0.9},
        {"fusion": "pooled", "per_identity": 2, "batch": 24, "accumulate": 2, "decouple_kind": "hsic"},
    ],
    changes={
        "tower": "vit-tiny",
        "text_tower": "bert-base",  # of another width than the image tower
        "height_px": 48,
        "width_px": 32,
        "max_tokens": 9,
        "shared_dim": 24,
        "embed_dim": 24,
        "fusion_heads": Changed(value=4, given=POOLED),
        "fusion_dropout": Changed(value=0.5, given=POOLED),
        "fusion_top": Changed(value=2, given={**POOLED, "fusion_weight": (5.0,)}),
        "fuse": Changed(value=0.5, given=POOLED),
        "fusion_weight": Changed(value=(30.0,), given={**POOLED, "fusion_weight": (5.0,)}),
        "grl_until": Changed(value=0.5, given={"grl_until": 1.0}),
        "cloth_adv_until": Changed(value=0.5, given={"cloth_adv_until": 1.0}),
        "schedule_unit": Changed(value="training", given={"grl_until": 0.5, "cloth_adv_until": 0.5}),
        "per_identity": 2,
        "rerank_k1": (2,),
        "rerank_k2": (1,),
        "rerank_lambda": (0.9,),
        "expand_k": (1,),
        "expand_alpha": (0.0,),
    },
    guess=at_random,
    settings=({}, {"qe_k": 5, "qe_alpha": 0.0}),
    worker_tolerance=0.3,  # in-batch losses: each worker's rows meet fewer others
)
