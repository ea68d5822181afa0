"""A few people in the layout of CUHK-PEDES, and a `t2i_reid` small enough to train on them in a test."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from refsweep.datasets.storage.store import Store
from refsweep.datasets.stream import Arrays, cut
from refsweep.trainables.t2i_reid import task as t2i_reid
from refsweep.trainables.training.checkpoints import Checkpoints
from refsweep.trainables.training.loop import Stopped, Training
from torch import Tensor

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


def config(**changed: Any) -> t2i_reid.Config:
    return t2i_reid.Config(**{**SMALL, **changed})


def make_task(folder: Path, **changed: Any) -> t2i_reid.Task:
    torch.manual_seed(0)
    return t2i_reid.Task(config(**changed), t2i_reid.open_data(Store(str(folder))))


def read(task: t2i_reid.Task, rows: pa.Table) -> dict[str, Tensor]:
    return {name: torch.as_tensor(array) for name, array in task.read(rows, task.data.store).items()}


def predicted(task: t2i_reid.Task, split: str, size: int | None = None) -> Arrays:
    task.model.eval()
    predict, plan = task.predictor(), task.plan(split, 0, 0)
    found = [
        predict(task.read(part.rows, task.data.store)) for part in cut(plan, size or task.config.score_batch, 0, split)
    ]
    return {name: np.concatenate([f[name] for f in found]) for name in found[0]}


def train(
    settings: t2i_reid.Config, folder: Path | None, people: Path, stop_after: int | None = None, attempt: int = 1
):
    """Trains to the end, or until so many batches are done."""
    store = Store(str(people))
    checkpoints = Checkpoints(Store(str(folder))) if folder else None
    training = Training(
        lambda: t2i_reid.Task(settings, t2i_reid.open_data(store)),
        settings,
        store,
        checkpoints,
        attempt=attempt,
        workers=2,
    )
    training.resume()
    asked = iter(range(1, 10_000))
    try:
        for _ in training.run(lambda: next(asked) == stop_after):
            pass
    except Stopped:
        pass
    return training


def terms_of(task: t2i_reid.Task, rows: int = 12, progress: float = 0.5) -> dict[str, Tensor]:
    torch.manual_seed(1)
    task.model.train()
    return task.losses(read(task, task.plan("train", 0, 0).slice(0, rows)), progress)
