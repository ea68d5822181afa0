"""A few people in ORBench's layout, and mm_reid's Task on them, for the tests of both its sides."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from refsweep.datasets.storage.store import Store
from refsweep.datasets.stream import Arrays, cut
from refsweep.trainables.mm_reid import task as mm_reid
from refsweep.trainables.mm_reid.model import MODALITIES
from torch import Tensor

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


def config(**changed: object) -> mm_reid.Config:
    return mm_reid.Config(**{**TINY, **changed})


def make_task(folder: Path, **changed: object) -> mm_reid.Task:
    """A task with a random model whose features differ by modality."""
    torch.manual_seed(0)
    made = mm_reid.Task(config(**changed), mm_reid.open_data(Store(str(folder))))
    for parameter in made.model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    made.model.eval()
    return made


def read(made: mm_reid.Task, split: str, start: int = 0, count: int = 6) -> dict[str, Tensor]:
    rows = made.plan(split, 0, 0).slice(start, count)
    return {name: torch.tensor(array) for name, array in made.read(rows, made.data.store).items()}


@torch.no_grad()
def predictions(made: mm_reid.Task, size: int = 16) -> dict[str, Arrays]:
    found = {}
    for split in made.eval_splits:
        predict = made.predictor()
        parts = [predict(made.read(p.rows, made.data.store)) for p in cut(made.plan(split, 0, 0), size, 0, split)]
        found[split] = {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
    return found
