"""mm_reid on made people: mAP by the number of query modalities, on identities that neither trained nor chose.

One run trains for some minutes on two cores. A small random tower: what is shown is that every further modality of
a query helps, not what CLIP reaches.
"""

from __future__ import annotations

import sys
import tempfile
import time
from dataclasses import asdict
from itertools import pairwise
from typing import Any

from ..datasets.made.orbench import Recipe, make
from ..datasets.storage.store import Store
from ..orchestration.evaluate import evaluate
from ..trainables.mm_reid import task as mm_reid
from ..trainables.training.loop import Training
from ..trainables.training.package import Package
from .common import publish

SEEDS = (0, 1, 2)
RECIPE = Recipe(identities=600)  # 120 of them for testing
CONFIG = {
    "tower": "ViT-tiny-77",
    "weights": None,
    "height_px": 96,
    "width_px": 48,
    "width": 64,
    "heads": 2,
    "epochs": 60,
    "batch": 32,
    "per_identity": 4,
    "lr": 8e-4,
    "tower_lr": 8e-4,
    "classifier_lr": 3e-3,
    "warmup": 0.1,
    "clip_quantile": 0.95,
    "fusion_dropout": 0.0,
    "dropout": 0.0,
    "modality_dropout": 0.4,
    "sdm_ramp": "share",
    "sdm_start": 0.0,
    "sdm_full": 0.2,
    "temperature": 0.15,
    "queries": 2,
    "evaluate_every": 60,
}
SIZES = ("map_1", "map_2", "map_3", "map_4")


def main() -> None:
    """Three seeds on one data set."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        make(Store(folder), RECIPE)
        for seed in SEEDS:
            rows.append(_run(folder, seed))
            print(rows[-1], file=sys.stderr)
    publish("mm_quality", f"mm_reid on made people, {RECIPE.identities // 5} test identities, mAP in percent", rows)


def _run(folder: str, seed: int) -> dict[str, Any]:
    """Trains with a seed; figures of the test split under the setting chosen on calibration."""
    config = mm_reid.Config(**CONFIG, seed=seed)  # type: ignore[arg-type]
    store = Store(folder)
    began = time.monotonic()
    training = Training(lambda: mm_reid.Task(config, mm_reid.open_data(store)), config, store)
    history = list(training.run())
    train_s = time.monotonic() - began
    package = Package(
        trainable="mm_reid",
        config=asdict(config),
        setting=history[-1].setting,
        facts={},
        origin={},
        weights=training.task.model.state_dict(),
    )
    figures = evaluate(package, folder, "test")
    rises = all(figures[a] < figures[b] for a, b in pairwise(SIZES))
    return {
        "seed": str(seed),
        **{f"{size[-1]} modalities" if size != "map_1" else "1 modality": figures[size] for size in SIZES},
        "rises": "yes" if rises else "no",
        **{name: figures[f"map_{name}"] for name in ("nir", "sk", "cp", "text")},
        "rank1": figures["rank1"],
        "train, s": train_s,
    }
