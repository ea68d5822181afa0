"""iKUN on Refer-KITTI: referring multi-object tracking (arXiv 2312.16245).

The defaults are the published training: RN50, crops of 224 and frames of 672 pixels, one expression a window,
AdamW at 1e-5 for 100 epochs. Tracks come from a tracker; the model says which of them an expression means.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...datasets.layouts.refer_kitti import ReferKitti
from ...datasets.layouts.refer_kitti_check import check
from ...datasets.problems import DataError, InputError
from ...datasets.storage.store import Store
from ...datasets.stream import Arrays
from ..coercion import plain
from ..contract import Scores
from ..layers.kum import KumMode
from ..layers.lora import add_lora
from ..losses.focal import focal_bce
from ..metrics.tracking import hota, trackeval_scores
from ..towers import clip
from ..training.config import LoopConfig, bounded
from ..training.package import Package, load_package_weights
from . import evaluate as evaluation
from .baselines import auc_by_kind, trivial_hota
from .data import Reader, Sampling, TrainingSet, scoring_plan, training_plan
from .evaluate import Prior, Scored, VideoTruth
from .model import Ikun
from .predict import WindowScores, channels_first
from .reference import from_reference
from .serve import Answers, example_row

__all__ = ["METRICS", "Config", "Ikun", "Task", "check_data", "from_reference", "open_data", "serve"]


METRICS = ("hota", "deta", "assa", "precision", "recall", "auc")  # of the validation videos; all better when larger


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(LoopConfig):
    """What can be set; defaults as published."""

    epochs: int = 100
    lr: float = 1e-5
    weight_decay: float = 1e-5
    batch: int = 8  # windows a step
    tower: str = "RN50"
    weights: str | None = "openai"  # of the towers: hub tag, file, s3:// object; null is random
    init: str | None = None  # of the whole model: a folder or s3:// prefix that `model import` or a registry made
    tower_lr: float | None = None  # of the CLIP towers; null is lr
    freeze_text: bool = True  # text transformer, its norm and projection, as published; random towers must learn
    lora_rank: int = bounded(0, 0, 64)  # 0 trains the visual tower whole; ViT only
    lora_alpha: float = 16.0
    kum_mode: KumMode | None = None
    crop_px: int = 224
    frame_px: int = 672
    feature_dim: int = bounded(1024, 8, 8192)
    heads: int = bounded(4, 1, 64)
    text_tokens: int = bounded(10, 1, 77)  # of an expression that cascade attends to
    dropout: float = bounded(0.1, 0, 0.9)  # in cross correlation and text-first modulation
    geometry: bool = False  # a token for the box's place and motion; beyond the published model
    gamma: float = bounded(2.0, 0, 10)  # focal exponent; 0 is plain cross-entropy
    rho: float | None = bounded(None, 0, 100)  # weight of positives; null is 1
    logit_scale: float = bounded(1.0, 0.01, 100)  # times the cosine before the loss; published: 1
    guidance_start: float = bounded(0.0, 0, 1)  # share of the training before text guides the visual feature
    windows_per_track: int = bounded(1, 1, 1000)  # an epoch
    expressions_per_window: int = bounded(1, 1, 512)
    positive_share: float | None = bounded(None, 0, 1)  # of them; null draws from all candidates alike
    crop_scale: float = bounded(0.08, 0.01, 1)  # smallest area share of RandomResizedCrop
    window_frames: int = 8
    window_stride: int = bounded(4, 1, 1000)
    looks: int = bounded(2, 1, 64)  # frames of a window that are looked at
    tracks: str = "tracks"  # folder of tracker output
    strict_bounds: bool = False  # leave out first and last frame, as the published evaluation does
    eval_normalises_text: bool = False  # a quirk of the published evaluation, kept for its checkpoints
    score_batch: int = 16  # frames a step when scoring
    calibration_a: tuple[float, ...] = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0)  # tried post hoc
    calibration_tau: tuple[float, ...] = (10.0, 30.0, 100.0)
    calibration_thresholds: int = bounded(96, 2, 10_000)  # quantiles of the scores, for each (a, tau)

    def problems(self) -> list[str]:
        """All that is wrong with the values. Raises InputError for a tower that does not exist."""
        found = LoopConfig.problems(self)
        sizes = clip.sizes_of(self.tower)
        if self.lora_rank and not self.tower.startswith("ViT"):
            found.append(f"lora_rank needs a ViT tower, got {self.tower!r}")
        for name in ("crop_px", "frame_px"):
            px = getattr(self, name)
            if px % sizes.stride or px < sizes.stride:
                found.append(f"{name} must be a multiple of {sizes.stride} with {self.tower}, got {px}")
        if self.looks < 1 or self.window_frames % self.looks:
            found.append(f"looks must divide window_frames, got {self.looks} and {self.window_frames}")
        return found


def open_data(store: Store | None) -> ReferKitti:
    """The data set at `store`."""
    if store is None:
        raise InputError("ikun needs data, got none")
    return ReferKitti(store)


def check_data(store: Store) -> None:
    """Raises DataError with all that is wrong and can be seen without decoding frames."""
    findings = check(store, decode=False)
    if findings.problems:
        raise DataError(findings.problems)


def serve(package: Package) -> Answers:
    """A packaged model, ready to answer."""
    config = make_config(package.config)
    model = build_model(replace(config, weights=None, init=None))
    model.load_state_dict(dict(package.weights))
    return Answers(model, config, package.setting, package.facts)


def example(data: ReferKitti, config: Config) -> dict[str, list[Any]]:
    """A row of real input for `serve(...).predict`."""
    return example_row(data, data.videos("test")[0], config.tracks, config.window_frames, config.looks)


def import_reference(state: dict[str, Tensor], kum_mode: str | None, text_heads: int | None = None) -> Package:
    """A published checkpoint's state dict as a package. Raises InputError when it does not fit."""
    model = from_reference(state, kum_mode, text_heads)
    sizes = model.clip.sizes
    config = Config(
        tower=clip.name_of(sizes),
        weights=None,
        kum_mode=model.kum_mode,
        crop_px=sizes.stride * round(len(model.pos_emb_local) ** 0.5),
        frame_px=sizes.stride * round(len(model.pos_emb_global) ** 0.5),
        feature_dim=model.img_fc.out_features,
        eval_normalises_text=True,
    )
    return Package(
        trainable="ikun",
        config=asdict(config),
        setting={"a": 0.0, "tau": 100.0, "threshold": 0.0},  # as published without calibration
        facts={"texts": ["car", "pedestrian"], "share": [0.5, 0.5]},  # without `a` the prior has no weight
        origin={"from": "published checkpoint"},
        weights=model.state_dict(),
    )


def make_config(fields: Mapping[str, Any]) -> Config:
    """The Config of plain values."""
    return Config(**plain(fields))


def build_model(config: Config) -> Ikun:
    """The model of a Config, with its weights. Raises InputError when they don't fit."""
    towers = clip.build(config.tower, config.weights)
    model = Ikun(
        towers,
        kum_mode=config.kum_mode,
        crop_px=config.crop_px,
        frame_px=config.frame_px,
        feature_dim=config.feature_dim,
        heads=config.heads,
        text_tokens=config.text_tokens,
        dropout=config.dropout,
        geometry=config.geometry,
        eval_normalises_text=config.eval_normalises_text,
    )
    if config.init is not None:
        load_package_weights(model, config.init)
    if config.lora_rank:
        add_lora([towers.visual.transformer], config.lora_rank, config.lora_alpha)  # type: ignore[list-item]
    if config.freeze_text:
        towers.transformer.requires_grad_(False)
        towers.ln_final.requires_grad_(False)
        towers.text_projection.requires_grad_(False)
    return model


class Task:
    """iKUN under one Config on one data set."""

    eval_splits = ("calibration", "validation")
    loss_is_sum = True
    parts_may_rest = True  # what guides, before guidance starts

    def __init__(self, config: Config, data: ReferKitti) -> None:
        self.config = config
        self.data = data
        self.model = build_model(config)
        self.read = Reader(config.crop_px, config.frame_px, data.frames)
        self._videos: dict[str, VideoTruth] = {}
        self._facts: dict[str, Any] = {}
        self._scoring_plans: dict[str, pa.Table] = {}

    @cached_property
    def training(self) -> TrainingSet:
        """Labelled tracks and expressions of the training videos."""
        return TrainingSet(self.data, self.data.videos("train"), self.config.window_frames)

    @cached_property
    def _tokens_ET(self) -> Tensor:
        return self.model.clip.tokenize(self.training.texts)

    def video(self, name: str) -> VideoTruth:
        """A video to score."""
        if name not in self._videos:
            c = self.config
            self._videos[name] = VideoTruth.load(self.data, name, c.tracks, c.window_frames, c.window_stride, c.looks)
        return self._videos[name]

    def plan(self, split: str, epoch: int, seed: int) -> pa.Table:
        """Training windows, or the frames of a split's videos."""
        if split == "train":
            c = self.config
            sampling = Sampling(
                window_frames=c.window_frames,
                looks=c.looks,
                windows_per_track=c.windows_per_track,
                expressions=c.expressions_per_window,
                positive_share=c.positive_share,
                crop_scale=c.crop_scale,
            )
            return training_plan(self.training.tracks, sampling, np.random.default_rng((seed, epoch)))
        if split not in self._scoring_plans:
            videos = [self.video(name) for name in self.data.videos(split)]
            tables = [scoring_plan(v.video, v.tracked, v.windows, v.geometry_N8) for v in videos]
            self._scoring_plans[split] = pa.concat_tables(tables)
        return self._scoring_plans[split]

    def batch_rows(self, split: str) -> int:
        """Rows of a plan in one batch."""
        return self.config.batch if split == "train" else self.config.score_batch

    def stretches(self, split: str) -> list[int]:
        """Frames of each video."""
        return list(self.plan(split, 0, 0)["video"].value_counts().field("counts").to_pylist())

    def compiled(self) -> list[torch.nn.Module]:
        """The towers."""
        return self.model.clip.stages()

    def param_groups(self) -> list[dict[str, Any]]:
        """The towers with their own learning rate, the rest."""
        towers = [p for p in self.model.clip.parameters() if p.requires_grad]
        mine = {id(p) for p in towers}
        rest = [p for p in self.model.parameters() if p.requires_grad and id(p) not in mine]
        return [{"params": towers, "lr": self.config.tower_lr or self.config.lr}, {"params": rest}]

    def losses(self, batch: Mapping[str, Tensor], progress: float) -> dict[str, Tensor]:
        """Focal cross-entropy of the pairs, summed as published."""
        c, model = self.config, self.model
        windows, looks = batch["crop"].shape[:2]
        unique_E, expression_P = torch.unique(batch["expression"].flatten(), return_inverse=True)
        text = model.encode_text(self._tokens_ET.to(unique_E.device)[unique_E])
        place_NG = batch["geometry"].flatten(0, 1) if c.geometry else None
        views = model.encode_views(channels_first(batch["crop"]), channels_first(batch["frame"]), place_NG)
        window_P = torch.arange(windows, device=expression_P.device).repeat_interleave(c.expressions_per_window)
        guided = progress >= c.guidance_start
        out = model.score_pairs(views, text, window_P, expression_P, frames=looks, guided=guided)
        loss = focal_bce(out.logit_B.float() * c.logit_scale, batch["label"].flatten(), c.gamma, c.rho)
        return {"focal": loss}

    def predictor(self) -> WindowScores:
        """Scores windows as their frames come."""
        return WindowScores(self.model, self.video, geometry=self.config.geometry)

    def evaluate(self, predictions: Mapping[str, Arrays], setting: Mapping[str, float] | None = None) -> Scores:
        """HOTA of the reported split (the last one given) under the given setting, or the one chosen on calibration."""
        prior = self.prior([name for split in predictions for name in self.data.videos(split)])
        scored = {split: self.scored(split, found) for split, found in predictions.items()}
        if setting is None:
            c = self.config
            grid = (c.calibration_a, c.calibration_tau, c.calibration_thresholds)
            setting = evaluation.choose(scored["calibration"], prior, *grid)
        reported = scored[list(predictions)[-1]]
        threshold_P = evaluation.thresholds(reported, prior, setting)
        return Scores({**hota(reported.sequences(threshold_P)), **reported.pair_metrics(threshold_P)}, dict(setting))

    def examine(self, split: str, found: Arrays, setting: Mapping[str, float]) -> dict[str, float]:
        """All there is to say of a split: TrackEval's figures, AUC by kind of expression, trivial answers' HOTA."""
        scored = self.scored(split, found)
        threshold_P = evaluation.thresholds(scored, self.prior(self.data.videos(split)), setting)
        return {
            **trackeval_scores(scored.sequences(threshold_P)),
            **scored.pair_metrics(threshold_P),
            **{f"auc_{kind}": value for kind, value in auc_by_kind(scored).items()},
            **{f"hota_{name}": value for name, value in trivial_hota(scored.videos).items()},
        }

    def facts(self) -> dict[str, Any]:
        """What calibration reads, for a package."""
        return self._facts or {"texts": self.training.texts, "share": self.training.share.tolist()}

    def recall(self, facts: Mapping[str, Any]) -> None:
        """Takes a package's facts in place of the training set's."""
        self._facts = dict(facts)

    def scored(self, split: str, found: Arrays) -> Scored:
        """A split's videos with the scores that were predicted for their windows."""
        videos = [self.video(name) for name in self.data.videos(split)]
        matrices: list[NDArray[np.floating]] = []
        start = 0
        for video in videos:
            count = len(video.windows) * len(video.texts)
            matrices.append(found["score"][start : start + count].reshape(-1, len(video.texts)))
            start += count
        return Scored(videos, matrices, strict_bounds=self.config.strict_bounds)

    @torch.no_grad()
    def prior(self, videos: Sequence[str]) -> Prior:
        """Text features and shares that calibration reads: of this model's own text tower."""
        facts = self.facts()
        texts = sorted({t for v in videos for t in self.video(v).texts} | set(facts["texts"]))
        device = next(self.model.parameters()).device
        _, end_ED = self.model.clip.encode_text(self.model.clip.tokenize(texts).to(device), 1)
        feature = torch.nn.functional.normalize(end_ED.double(), dim=-1).cpu().numpy()
        by_text = dict(zip(texts, feature, strict=True))
        return Prior(np.stack([by_text[t] for t in facts["texts"]]), np.array(facts["share"]), by_text)
