"""A few people in ORBench's layout, and an `mm_reid` small enough to train on them in a test."""

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
from refsweep.trainables.mm_reid.config import MODALITIES

TINY: dict[str, Any] = {
    "tower": "ViT-tiny",
    "weights": None,
    "height_px": 32,
    "width_px": 16,
    "width": 16,
    "heads": 2,
    "batch": 6,
    "per_identity": 2,
    "epochs": 2,
    "lr": 1e-3,
    "tower_lr": 1e-3,
    "sdm_ramp": "share",
    "sdm_start": 0.2,
    "sdm_full": 0.8,
    "queries": 2,
    "score_batch": 16,
    "erase": 0.5,
}
COLOURS = ("red", "green", "blue", "white", "black", "grey", "yellow", "brown")


def picture(identity: int, modality: str, number: int) -> bytes:
    rng = np.random.default_rng((identity, len(modality), number))
    colour = np.random.default_rng(identity).integers(0, 255, (2, 3))
    pixels = np.repeat(colour, 16, 0)[:, None] + rng.normal(0, 20, (32, 16, 3))
    if modality in ("nir", "sk"):
        pixels = pixels.mean(2, keepdims=True).repeat(3, 2)
    file = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def write_people(root: Path) -> Path:
    """Identities 1 to 5 in train, 10 to 15 in val, 20 to 22 in test; 4 has no text, 5 is in vis alone."""
    store = Store(str(root))
    for folder, identities in (("train", range(1, 6)), ("val", range(10, 16)), ("test", range(20, 23))):
        captions = []
        for identity in identities:
            for modality in MODALITIES[:4] if identity != 5 else ("vis",):
                for number in range(2):
                    path = f"{modality}/{identity:04d}/{number}.png"
                    store.write(f"{folder}/{path}", picture(identity, modality, number))
                    if modality == "vis" and identity not in (4, 5):
                        words = f"a person with a {COLOURS[identity % 8]} coat and {COLOURS[number]} shoes"
                        captions.append({"file_path": path, "caption": words})
        store.write(f"{folder}/text_annos.json", json.dumps(captions).encode())
    return root


def at_random(predictions: Arrays, rng: np.random.Generator) -> Arrays:
    """Features in random directions."""
    return {"feature": rng.standard_normal(predictions["feature"].shape).astype(np.float32)}


CASE = Case(
    config=TINY,
    write_data=write_people,
    variants=[{"evaluate_every": 2, "clip_quantile": 0.5, "fusion_dropout": 0.3}],
    changes={
        "tower": "ViT-tiny-77",
        "height_px": 48,
        "width_px": 32,
        "per_identity": 3,
        "visits": 2,
        "lora_rank": (2, 0, 4),
        "lora_alpha": 4.0,
        "width": 24,
        "heads": 4,
        "fusion_depth": 2,
        "temperature": 0.4,
        "sdm_start": 0.4,
        "sdm_full": 0.9,
        "min_modalities": 4,
        "queries": 1,
        "mix": (0.9,),
        "text_weight": Changed(value=(50.0,), given={"mix": (0.9,)}),
        "rerank_k1": (2,),
        "rerank_k2": Changed(value=(2,), given={"rerank_k1": (2,)}),
        "rerank_lambda": Changed(value=(0.1,), given={"rerank_k1": (2,)}),
        "expand_k": (1,),
        "expand_alpha": Changed(value=(9.0,), given={"expand_k": (2,)}),
    },
    guess=at_random,
    settings=({}, {"mix": 0.75, "text_weight": 2.0, "qe_k": 2, "qe_alpha": 1.0}),
    worker_tolerance=0.3,  # in-batch losses: each worker's rows meet fewer others
)
