"""iKUN on Refer-KITTI: referring multi-object tracking (arXiv 2312.16245).

The defaults are the published training: RN50, crops of 224 and frames of 672 pixels, one expression a window,
AdamW at 1e-5 for 100 epochs. Tracks come from a tracker; the model says which of them an expression means.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from ...datasets.layouts.refer_kitti import ReferKitti
from ...datasets.stream import Arrays
from ..contract import Scores
from .baselines import all_figures
from .config import METRICS, Config
from .data import Reader, TrainingSet, check_data, open_data, scoring_plan, training_plan, videos_of
from .evaluate import Prior, Scored, choose, metrics_of
from .losses import training_losses
from .model import build_model
from .predict import WindowScores
from .reference import import_checkpoint
from .serve import example, serve
from .track import track, track_example
from .truth import VideoTruth

__all__ = [
    "METRICS",
    "Config",
    "Task",
    "check_data",
    "example",
    "import_checkpoint",
    "open_data",
    "serve",
    "track",
    "track_example",
]


class Task:
    """iKUN under one Config on one data set."""

    eval_splits = ("calibration", "validation")
    loss_is_sum = True
    has_unused_parameters = True  # what guides, before guidance starts

    def __init__(self, config: Config, data: ReferKitti) -> None:
        self.config, self.data = config, data
        self.model = build_model(config)
        self.read = Reader(config.crop_px, config.frame_px, data.frames)
        self._videos: dict[str, VideoTruth] = {}
        self._facts: dict[str, Any] = {}
        self._scoring_plans: dict[str, pa.Table] = {}
        self._may_evaluate = False

    @cached_property
    def training(self) -> TrainingSet:
        """Labelled tracks and expressions of the training videos. Raises DataError when there are none."""
        return TrainingSet(self.data, self.data.videos("train"), self.config.window_frames)

    @cached_property
    def _tokens_ET(self) -> Tensor:
        return self.model.clip.tokenize(self.training.texts)

    def video(self, name: str) -> VideoTruth:
        """A video to score, by its name."""
        if name not in self._videos:
            self._videos[name] = VideoTruth.load(self.data, name, self.config)
        return self._videos[name]

    def plan(self, split: str, epoch: int, seed: int) -> pa.Table:
        """Training windows, one a row; or what `evaluation_plan` gives."""
        if split != "train":
            return self.evaluation_plan(split)
        for needed in () if self._may_evaluate else self.eval_splits:
            videos_of(self.data, needed)
        self._may_evaluate = True
        return training_plan(self.training.tracks, self.config, np.random.default_rng((seed, epoch)))

    def evaluation_plan(self, split: str) -> pa.Table:
        """The frames of a split's videos that some window looks at, one a row; training videos too."""
        if split not in self._scoring_plans:
            videos = [self.video(name) for name in videos_of(self.data, split)]
            tables = [scoring_plan(v.video, v.tracked, v.windows, v.geometry_N8) for v in videos]
            self._scoring_plans[split] = pa.concat_tables(tables)
        return self._scoring_plans[split]

    def batch_rows(self, split: str) -> int:
        """Rows of a plan in one batch."""
        return self.config.batch if split == "train" else self.config.score_batch

    def eval_shards(self, split: str) -> list[int]:
        """The number of frames of each video: a video is scored as a whole."""
        return list(self.plan(split, 0, 0)["video"].value_counts().field("counts").to_pylist())

    def compiled(self) -> list[torch.nn.Module]:
        """The towers, which do nearly all of the work."""
        return self.model.clip.stages()

    def param_groups(self) -> list[dict[str, Any]]:
        """See `Ikun.param_groups`."""
        return self.model.param_groups()

    def losses(self, batch: Mapping[str, Tensor], progress: float) -> dict[str, Tensor]:
        """See `losses.training_losses`."""
        return training_losses(self.model, self.config, self._tokens_ET, batch, progress)

    def predictor(self) -> WindowScores:
        """Scores windows as their frames come."""
        return WindowScores(self.model, self.video)

    def evaluate(self, predictions: Mapping[str, Arrays], setting: Mapping[str, float] | None = None) -> Scores:
        """METRICS of the last split given, under the given setting or the one chosen on calibration."""
        prior = self.prior([name for split in predictions for name in self.data.videos(split)])
        if setting is None:
            setting = choose(self.scored("calibration", predictions["calibration"]), prior, self.config)
        split, reported = list(predictions.items())[-1]
        return Scores(metrics_of(self.scored(split, reported), prior, setting), dict(setting))

    def score_with(self, split: str, predictions: Arrays, setting: Mapping[str, float]) -> dict[str, float]:
        """TrackEval's figures, AUC by kind of expression, HOTA of trivial and of perfect answers."""
        return all_figures(self.scored(split, predictions), self.prior(self.data.videos(split)), setting)

    def facts(self) -> dict[str, Any]:
        """What calibration compares with: training expressions, and each one's share of all positive boxes."""
        return self._facts or {"texts": self.training.texts, "share": self.training.share.tolist()}

    def restore_facts(self, facts: Mapping[str, Any]) -> None:
        """Takes a package's facts in place of the training set's."""
        self._facts = dict(facts)

    def scored(self, split: str, predictions: Arrays) -> Scored:
        """A split's videos with the scores that were predicted for their windows."""
        videos = [self.video(name) for name in self.data.videos(split)]
        return Scored.of(videos, predictions, strict_bounds=self.config.strict_bounds)

    def prior(self, videos: Sequence[str]) -> Prior:
        """What calibration compares the expressions of some videos with."""
        return Prior.make(self.model, self.facts(), [text for video in videos for text in self.video(video).texts])
