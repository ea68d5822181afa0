"""Text-to-image person re-identification that keeps who it is apart from what is worn.

Data in the layouts of CUHK-PEDES, ICFG-PEDES or RSTPReid. The defaults are the reference's training: ViT-B/16 and
BERT-base, Adam at 1e-4 for 80 epochs of batches of 128. Queries are texts, the gallery is all pictures of a split.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from ..datasets.cuhk_pedes import PersonText, check
from ..datasets.frames import FrameCache
from ..datasets.problems import DataError, InputError, Problem
from ..datasets.store import Store
from ..datasets.stream import Arrays
from .config import LoopConfig
from .layers.fusion import FUSIONS, FusionKind
from .layers.gradient_reversal import SCHEDULES, UNITS, Schedule, Unit
from .losses.contrastive import POSITIVES, Positives
from .losses.decoupling import DECOUPLINGS, Decoupling
from .metrics.retrieval import Truth
from .package import Package
from .person.model import T2iReid
from .person.objective import LOSSES, Objective
from .person.plans import Reader, Sampling, TrainingSet, evaluation_plan, training_plan
from .person.prediction import Features, matches
from .person.serving import Answers
from .person.texts import TextTable
from .posthoc import reranking
from .reid.classifier import load_all_but_classifier
from .reid.evaluation import RETRIEVAL_METRICS, Retrieval, choose, grid_of
from .reid.images import CACHE_MIB, Augmentation, ImageReader
from .reid.serving import encode
from .task import Scores, plain
from .towers import text as text_towers
from .towers import vit

METRICS = (*RETRIEVAL_METRICS, "feature_cosine")  # percent of the validation queries; the last one, less is better
QUERIES = {"caption": "text", "identity": "identity_text", "clothing": "clothing_text"}  # columns of the captions


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(LoopConfig):
    """What can be set; defaults as in the reference, where it is not at fault."""

    epochs: int = 80
    lr: float = 1e-4
    weight_decay: float = 1e-3
    batch: int = 128
    tower: str = "vit-base"
    weights: str | None = "google/vit-base-patch16-224"  # of the ViT: folder, s3:// prefix, hub id; null is random
    text_tower: str = "bert-base"
    text_weights: str | None = "google-bert/bert-base-uncased"  # of BERT, with its word pieces; null is random
    init: str | None = None  # of the whole model but its classifier: a folder or s3:// prefix of a package
    tower_lr: float | None = None  # of both towers; null is lr
    height_px: int = 224
    width_px: int = 224
    max_tokens: int = 100  # of a caption; longer ones are cut
    shared_dim: int = 512
    embed_dim: int = 256
    dropout: float = 0.2  # in the two MLPs
    fusion: FusionKind | None = None
    fusion_heads: int = 4
    fusion_dropout: float = 0.1
    fusion_top: int = 32  # pictures of a query that fusion ranks again, in evaluation
    temperature: float = 0.1
    positives: Positives = "share"  # other texts of the same person: positives, or left out
    match_text: Literal["identity", "caption"] = "identity"  # what info_nce and fuse match pictures with
    info_nce: float = 1.0  # weights of the losses
    cls: float = 1.0
    bio: float = 0.5
    cloth: float = 0.5
    cloth_adv: float = 0.1  # at its highest
    cloth_match: float = 1.0
    decouple: float = 0.1
    fuse: float = 1.0  # only with fusion
    decouple_kind: Decoupling = "cosine"
    decouple_on: Literal["projections", "features"] = "projections"
    grl_schedule: Schedule = "seed"
    grl_alpha: float = 1.0  # at its highest; 0 lets nothing through
    grl_until: float = 45.0  # when the schedule ends, in schedule_unit: seed over 45 epochs is 0.1 + 0.02 epoch
    cloth_adv_until: float = 16.0  # when cloth_adv's weight is whole: over 16 epochs it is 0.2 + 0.05 epoch
    schedule_unit: Unit = "epochs"  # or `training`: shares of it
    per_identity: int = 0  # rows of a person that come together in a batch; 0 shuffles all
    unmatched: float = 0.5  # share of rows that also meet a caption of another person's clothing
    hard_pool: int = 8  # captions of which the most alike is that one; 1 is a random one
    flip: float = 0.5
    crop: float = 0.1  # most of each side that is cut off
    erase: float = 0.0
    query: Literal["caption", "identity", "clothing"] = "caption"  # what is asked with in evaluation
    score_batch: int = 64
    rerank_k1: tuple[int, ...] = (20,)  # tried post hoc: see posthoc.reranking
    rerank_k2: tuple[int, ...] = (6,)
    rerank_lambda: tuple[float, ...] = (0.3, 0.8)
    expand_k: tuple[int, ...] = (3,)
    expand_alpha: tuple[float, ...] = (3.0,)
    fusion_weight: tuple[float, ...] = (0.1, 0.3, 1.0)  # of the fused similarity beside the plain one

    def problems(self) -> list[str]:
        """All that is wrong with the values. Raises InputError for a tower that does not exist."""
        found = LoopConfig.problems(self)
        image, text = vit.sizes_of(self.tower), text_towers.sizes_of(self.text_tower)
        if image.width != text.width:
            found.append(f"tower and text_tower must be equally wide, got {image.width} and {text.width}")
        for name in ("height_px", "width_px"):
            if getattr(self, name) % image.patch or getattr(self, name) < image.patch:
                found.append(f"{name} must be a multiple of {image.patch} with {self.tower}, got {getattr(self, name)}")
        if self.max_tokens > text.context:
            found.append(f"max_tokens must be in 3..{text.context} with {self.text_tower}, got {self.max_tokens}")
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                found.append(f"{name} must be one of {', '.join(map(str, choices))}, got {getattr(self, name)!r}")
        if self.fusion is not None and self.embed_dim % max(self.fusion_heads, 1):
            found.append(f"fusion_heads must divide embed_dim, got {self.fusion_heads} and {self.embed_dim}")
        if self.batch < 2 * max(1, self.per_identity) or self.batch % max(1, self.per_identity):
            found.append(
                "batch must hold at least two identities, in multiples of per_identity,"
                f" got {self.batch} and {self.per_identity}"
            )
        for name in ("grl_until", "cloth_adv_until"):
            highest = 1 if self.schedule_unit == "training" else 100_000
            if not 0 < getattr(self, name) <= highest:
                unit = self.schedule_unit
                found.append(f"{name} must be above 0 and at most {highest} in {unit}, got {getattr(self, name)}")
        return found + self._grid_problems() + self.outside(*_RANGES, *((loss, 0, 100) for loss in LOSSES))

    def _grid_problems(self) -> list[str]:
        try:
            self.grid().settings()
        except InputError as error:
            return [f"rerank and expand: {line}" for line in str(error).splitlines()]
        return []

    def grid(self) -> reranking.Grid:
        """The settings of re-ranking that are tried."""
        return grid_of(self.rerank_k1, self.rerank_k2, self.rerank_lambda, self.expand_k, self.expand_alpha)


_CHOICES: dict[str, tuple[Any, ...]] = {
    "fusion": (*FUSIONS, None),
    "positives": POSITIVES,
    "match_text": ("identity", "caption"),
    "decouple_kind": DECOUPLINGS,
    "decouple_on": ("projections", "features"),
    "grl_schedule": SCHEDULES,
    "schedule_unit": UNITS,
    "query": tuple(QUERIES),
}
_RANGES = (
    ("height_px", 8, 1024),
    ("width_px", 8, 1024),
    ("max_tokens", 3, 512),
    ("shared_dim", 8, 8192),
    ("embed_dim", 8, 8192),
    ("dropout", 0, 0.9),
    ("fusion_heads", 1, 64),
    ("fusion_dropout", 0, 0.9),
    ("fusion_top", 1, 100_000),
    ("temperature", 0.001, 10),
    ("grl_alpha", 0, 10),
    ("per_identity", 0, 1024),
    ("unmatched", 0, 1),
    ("hard_pool", 1, 1024),
    ("flip", 0, 1),
    ("crop", 0, 0.9),
    ("erase", 0, 1),
    ("score_batch", 1, 65_536),
)


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
    return {"text": [caption], "gallery": [[encode(data.store.read(path)) for path in paths]]}


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
