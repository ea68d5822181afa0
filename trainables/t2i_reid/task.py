"""Text-to-image person re-identification that keeps identity apart from clothing.

Data in the layouts of CUHK-PEDES, ICFG-PEDES or RSTPReid. The defaults are the reference's training: ViT-B/16 and
BERT-base, Adam at 1e-4 for 80 epochs of batches of 128. Queries are texts, the gallery is all pictures of a split.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from ...datasets.layouts.cuhk_pedes import PersonText
from ...datasets.stream import Arrays
from ..contract import Scores
from ..reid.evaluation import Retrieval
from ..reid.images import ImageReader
from . import evaluate as evaluation
from .config import METRICS, QUERIES, Config
from .data import Reader, TrainingSet, check_data, evaluation_plan, gallery, open_data, training_plan
from .evaluate import queries_of
from .losses import TrainingLosses
from .model import build_model
from .predict import FeaturePredictor
from .serve import example, serve
from .texts import SCORED_TRAIN, make_table

__all__ = ["METRICS", "Config", "Task", "check_data", "example", "gallery", "open_data", "serve"]


class Task:
    """`t2i_reid` under one Config on one data set."""

    eval_splits = ("calibration", "validation")
    loss_is_sum = False  # in-batch losses: of each worker's rows
    has_unused_parameters = True  # projectors of losses without weight

    def __init__(self, config: Config, data: PersonText) -> None:
        self.config, self.data = config, data
        self.texts = make_table(config, {})
        self.model = build_model(config, len(set(data.images("train").column("identity").to_pylist())))
        self.read = Reader(ImageReader(config.height_px, config.width_px, data.frames))
        self._plans: dict[str, pa.Table] = {}
        self._may_evaluate = False

    @cached_property
    def training(self) -> TrainingSet:
        """Captions of the training split. Raises DataError when they are of fewer than two people."""
        return TrainingSet(self.data.images("train"), self.data.captions("train"), self.texts)

    @cached_property
    def objective(self) -> TrainingLosses:
        """The training objective, with the weights of its losses."""
        return TrainingLosses(self.config, self.model, self.texts)

    def plan(self, split: str, epoch: int, seed: int) -> pa.Table:
        """Training captions with their pictures, one a row; or what `evaluation_plan` gives."""
        if split != "train":
            return self.evaluation_plan(split)
        for needed in () if self._may_evaluate else self.eval_splits:
            queries_of(self.data, needed, self.config.query)
        self._may_evaluate = True
        return training_plan(self.training, self.config, np.random.default_rng((seed, epoch)))

    def evaluation_plan(self, split: str) -> pa.Table:
        """The pictures of a split, of training too, then its queries."""
        if split not in self._plans:
            query = self.config.query
            texts = queries_of(self.data, split, query).column(QUERIES[query]).to_pylist()
            paths = self.data.images(split).column("path").to_pylist()
            self._plans[split] = evaluation_plan(
                paths, self.texts.add(texts, SCORED_TRAIN if split == "train" else split)
            )
        return self._plans[split]

    def batch_rows(self, split: str) -> int:
        """Rows of a plan in one batch."""
        return self.config.batch if split == "train" else self.config.score_batch

    def eval_shards(self, split: str) -> list[int]:
        """Batches' worth of rows: each is predicted for itself."""
        rows, size = self.plan(split, 0, 0).num_rows, self.config.score_batch
        return [min(size, rows - start) for start in range(0, rows, size)]

    def compiled(self) -> list[torch.nn.Module]:
        """The towers, which do nearly all of the work."""
        return [self.model.image_tower, self.model.text_tower]

    def param_groups(self) -> list[dict[str, Any]]:
        """See `T2iReid.param_groups`."""
        return self.model.param_groups()

    def losses(self, batch: Mapping[str, Tensor], progress: float) -> dict[str, Tensor]:
        """Those of LOSSES that have a weight, times it."""
        return self.objective(batch, progress)

    def predictor(self) -> FeaturePredictor:
        """Features of pictures and queries."""
        return FeaturePredictor(self.model, self.texts)

    def facts(self) -> dict[str, Any]:
        """`words`, the tokenizer, where it came with weights; counts of what was cut or left out."""
        words = self.texts.words.as_text()
        counts = {"captions_cut": self.texts.too_long, **self.data.skipped()}
        return {"counts": counts, **({"words": words} if words is not None else {})}

    def restore_facts(self, facts: Mapping[str, Any]) -> None:
        """Takes a package's tokenizer in place of this Config's."""
        self.texts = make_table(self.config, facts)
        self._plans.clear()
        for name in ("training", "objective"):
            self.__dict__.pop(name, None)

    def evaluate(self, predictions: Mapping[str, Arrays], setting: Mapping[str, float] | None = None) -> Scores:
        """METRICS of the last split given, in percent, under the given setting or the one chosen on calibration."""
        if setting is None:
            calibration = self.retrieval("calibration", predictions["calibration"])
            setting = evaluation.choose_setting(self.config, calibration)
        split, reported = list(predictions.items())[-1]
        return Scores(evaluation.metrics_of(self.retrieval(split, reported), reported, setting), dict(setting))

    def score_with(self, split: str, predictions: Arrays, setting: Mapping[str, float]) -> dict[str, float]:
        """METRICS, in percent, those without the setting too (`plain_...`), and counts of queries and pictures."""
        retrieval = self.retrieval(split, predictions)
        plain_figures = retrieval.ranking({}).figures()
        return {
            **evaluation.metrics_of(retrieval, predictions, setting),
            **{f"plain_{name}": value for name, value in plain_figures.items()},
            "queries": float(predictions["is_text"].sum()),
            "gallery": float((~predictions["is_text"]).sum()),
            "captions_cut": float(self.texts.too_long),
        }

    def retrieval(self, split: str, predictions: Arrays) -> Retrieval:
        """A split's queries against all its pictures."""
        return evaluation.retrieval(self.config, self.model, self.data, split, predictions)
