"""Text-to-image person re-identification that keeps who it is apart from what is worn.

Data in the layouts of CUHK-PEDES, ICFG-PEDES or RSTPReid. The defaults are the reference's training: ViT-B/16 and
BERT-base, Adam at 1e-4 for 80 epochs of batches of 128. Queries are texts, the gallery is all pictures of a split.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from ...datasets.frames.cache import FrameCache
from ...datasets.layouts.cuhk_pedes import PersonText, check, holds
from ...datasets.problems import DataError, InputError, Problem
from ...datasets.storage.store import Store
from ...datasets.stream import Arrays
from ..coercion import plain
from ..contract import Scores
from ..metrics.retrieval import Truth
from ..posthoc import reranking
from ..reid.classifier import load_all_but_classifier
from ..reid.evaluation import RETRIEVAL_METRICS, Retrieval, choose
from ..reid.images import CACHE_MIB, Augmentation, ImageReader
from ..reid.serving import encode
from ..towers import text as text_towers
from ..towers import vit
from ..training.package import Package
from .config import QUERIES, Config
from .data import Reader, Sampling, TrainingSet, evaluation_plan, training_plan
from .losses import Objective
from .model import T2iReid
from .predict import Features, matches
from .serve import Answers
from .texts import TextTable

__all__ = ["METRICS", "Config", "Task", "check_data", "example", "open_data", "serve"]

METRICS = (*RETRIEVAL_METRICS, "feature_cosine")  # percent of the validation queries; the last one, less is better


def open_data(store: Store | None) -> PersonText:
    """The data set at `store`."""
    if store is None:
        raise InputError("t2i_reid needs data, got none")
    return PersonText(store)


def check_data(store: Store) -> None:
    """Raises DataError with all that is wrong and can be seen without decoding pictures."""
    findings = check(store, decode=False)
    if findings.problems:
        raise DataError(findings.problems)


def gallery(store: Store, split: str) -> pa.Table | None:
    """`path` and `identity` of a split's pictures; None where there is no such data set."""
    return PersonText(store).images(split) if holds(store) else None


def make_config(fields: Mapping[str, Any]) -> Config:
    """The Config of plain values."""
    return Config(**plain(fields))


def build_model(config: Config, identities: int) -> T2iReid:
    """The model of a Config, with its weights. Raises InputError when they don't fit."""
    sizes = vit.sizes_of(config.tower)
    model = T2iReid(
        vit.ImageTower(sizes, config.height_px, config.width_px, config.weights),
        text_towers.TextTower(text_towers.sizes_of(config.text_tower), config.text_weights),
        width=sizes.width,
        identities=identities,
        shared_dim=config.shared_dim,
        embed_dim=config.embed_dim,
        dropout=config.dropout,
        fusion=config.fusion,
        heads=config.fusion_heads,
        fusion_dropout=config.fusion_dropout,
    )
    if config.init is not None:
        load_all_but_classifier(model, config.init)
    return model


def serve(package: Package) -> Answers:
    """A packaged model, ready to answer."""
    config = replace(make_config(package.config), weights=None, text_weights=None, init=None)
    model = build_model(config, len(package.weights["classifier.weight"]))
    model.load_state_dict(dict(package.weights))
    images = ImageReader(config.height_px, config.width_px, FrameCache(0))
    return Answers(model, _table(config, package.facts), images, package.setting, config.fusion_top)


def _table(config: Config, facts: Mapping[str, Any]) -> TextTable:
    sizes = text_towers.sizes_of(config.text_tower)
    return TextTable(text_towers.words_of(sizes, config.text_weights, facts.get("words")), config.max_tokens)


def example(data: PersonText, config: Config) -> dict[str, list[Any]]:
    """A row of real input for `serve(...).predict`: a caption and three pictures, base64 since it must survive JSON."""
    paths = data.images("test").column("path").to_pylist()[:3]
    caption = data.captions("test").column("text")[0].as_py()
    return {"text": [caption], "gallery": [[encode(data.pictures.read(path)[0]) for path in paths]]}


class Task:
    """`t2i_reid` under one Config on one data set."""

    eval_splits = ("calibration", "validation")
    loss_is_sum = False  # in-batch losses: of each worker's rows
    parts_may_rest = True  # projectors of losses without weight

    def __init__(self, config: Config, data: PersonText) -> None:
        self.config, self.data = config, data
        self.texts = _table(config, {})
        self.model = build_model(config, len(set(data.images("train").column("identity").to_pylist())))
        self.read = Reader(ImageReader(config.height_px, config.width_px, FrameCache(CACHE_MIB)))
        self._plans: dict[str, pa.Table] = {}

    @cached_property
    def training(self) -> TrainingSet:
        """Captions of the training split. Raises DataError when they are of fewer than two people."""
        return TrainingSet(self.data.images("train"), self.data.captions("train"), self.texts)

    @cached_property
    def objective(self) -> Objective:
        """The losses."""
        return Objective(self.config, self.model, self.texts)

    def plan(self, split: str, epoch: int, seed: int) -> pa.Table:
        """Training rows, or the pictures and queries of a split."""
        c = self.config
        if split == "train":
            sampling = Sampling(batch=c.batch, per_identity=c.per_identity, unmatched=c.unmatched, pool=c.hard_pool)
            augmentation = Augmentation(flip=c.flip, crop=c.crop, erase=c.erase)
            return training_plan(self.training, sampling, augmentation, np.random.default_rng((seed, epoch)))
        if split not in self._plans:
            texts = self.queries(split).column(QUERIES[c.query]).to_pylist()
            paths = self.data.images(split).column("path").to_pylist()
            self._plans[split] = evaluation_plan(paths, self.texts.add(texts))
        return self._plans[split]

    def queries(self, split: str) -> pa.Table:
        """The captions of a split that can be asked with: those that say something of what `query` names.

        Raises DataError when there are none.
        """
        captions = self.data.captions(split)
        said = [bool((text or "").strip()) for text in captions.column(QUERIES[self.config.query]).to_pylist()]
        if not any(said):
            what = f"split {split} has no caption that says something of {self.config.query}"
            raise DataError([Problem(self.data.store.uri, what)])
        return captions.filter(pa.array(said))

    def batch_rows(self, split: str) -> int:
        """Rows of a plan in one batch."""
        return self.config.batch if split == "train" else self.config.score_batch

    def stretches(self, split: str) -> list[int]:
        """Each row is predicted for itself: stretches are batches."""
        rows, size = self.plan(split, 0, 0).num_rows, self.config.score_batch
        return [min(size, rows - start) for start in range(0, rows, size)]

    def compiled(self) -> list[torch.nn.Module]:
        """The towers."""
        return [self.model.image_tower, self.model.text_tower]

    def param_groups(self) -> list[dict[str, Any]]:
        """The towers with their own learning rate; the rest, the projectors of the losses among it."""
        towers = self.model.tower_parameters()
        mine = {id(p) for p in towers}
        rest = [p for p in self.model.parameters() if id(p) not in mine]
        return [{"params": towers, "lr": self.config.tower_lr or self.config.lr}, {"params": rest}]

    def losses(self, batch: Mapping[str, Tensor], progress: float) -> dict[str, Tensor]:
        """The losses that have a weight."""
        return self.objective.terms(batch, progress)

    def predictor(self) -> Features:
        """Features of pictures and queries."""
        return Features(self.model, self.texts)

    def facts(self) -> dict[str, Any]:
        """The tokenizer, where it came with weights; what was cut or left out."""
        words = self.texts.words.as_text()
        counts = {"captions_cut": self.texts.too_long, **self.data.skipped()}
        return {"counts": counts, **({"words": words} if words is not None else {})}

    def recall(self, facts: Mapping[str, Any]) -> None:
        """Takes a package's tokenizer in place of this Config's."""
        self.texts = _table(self.config, facts)
        self._plans.clear()
        for name in ("training", "objective"):
            self.__dict__.pop(name, None)

    def evaluate(self, predictions: Mapping[str, Arrays], setting: Mapping[str, float] | None = None) -> Scores:
        """Figures of the reported split (the last one given) under the given setting, or the one chosen on
        calibration."""
        if setting is None:
            calibration = self.retrieval("calibration", predictions["calibration"])
            setting = choose([calibration], self.config.grid(), bonuses=self.config.fusion_weight)
        split, found = list(predictions.items())[-1]
        return Scores(self._figures(split, found, setting), dict(setting))

    def examine(self, split: str, found: Arrays, setting: Mapping[str, float]) -> dict[str, float]:
        """All figures of a split, those without the setting too."""
        plain_figures = self.retrieval(split, found).ranking({}).figures()
        return {
            **self._figures(split, found, setting),
            **{f"plain_{name}": value for name, value in plain_figures.items()},
            "queries": float(found["is_text"].sum()),
            "gallery": float((~found["is_text"]).sum()),
            "captions_cut": float(self.texts.too_long),
        }

    def _figures(self, split: str, found: Arrays, setting: Mapping[str, float]) -> dict[str, float]:
        ranking = self.retrieval(split, found).ranking(setting)
        return {**ranking.figures(), "feature_cosine": float(100 * np.nanmean(found["cosine"]))}

    def retrieval(self, split: str, found: Arrays) -> Retrieval:
        """A split's queries against all its pictures; a text has no camera, so none is left out."""
        queries, pictures = (_rows(found, rows) for rows in (found["is_text"], ~found["is_text"]))
        identity_G = self.data.images(split).column("identity").to_numpy()
        identity_Q = identity_G[self.queries(split).column("image").to_numpy()]
        bonus_QG = None
        if self.config.fusion is not None and self.config.fuse > 0:
            bonus_QG = matches(self.model, queries, pictures, self.config.fusion_top)
        features = reranking.Features.of(queries["feature"], pictures["feature"])
        return Retrieval(features, Truth(identity_Q, identity_G), bonus_QG)


def _rows(found: Arrays, rows: Any) -> Arrays:
    return {name: array[rows] for name, array in found.items()}
