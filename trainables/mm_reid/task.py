"""Multi-modal person re-identification: CLIP with MER and SDM (PRCV 2025, ORBench).

The gallery is photographs (vis); a query is one to four of near infrared (nir), sketch (sk), colour pencil (cp) and
text. The defaults are the published training: ViT-B/16, LoRA of rank 4 a modality, 8 identities of 4 rows a batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from ...datasets.layouts.orbench import Orbench
from ...datasets.stream import Arrays
from ..contract import Scores
from ..reid.images import ImageReader
from . import evaluate as evaluation
from .config import METRICS, Config
from .data import Pools, Reader, check_data, cut_texts, gallery, make_rows, open_data, training_plan
from .evaluate import Encoded, EvaluationSet
from .losses import training_losses
from .model import build_model
from .predict import SampleFeatures
from .serve import example, serve

__all__ = ["METRICS", "Config", "Task", "check_data", "example", "gallery", "open_data", "serve"]


class Task:
    """MmReid under one Config on one data set."""

    eval_splits = ("calibration", "validation")
    loss_is_sum = False
    has_unused_parameters = True  # modalities that a batch lacks

    def __init__(self, config: Config, data: Orbench) -> None:
        self.config, self.data = config, data
        self.model = build_model(config, max(1, len(self.pools)))
        images = ImageReader(config.height_px, config.width_px, data.frames)
        self.read = Reader(images, self.model.clip.sizes.context)
        self._evaluation_sets: dict[str, EvaluationSet] = {}

    @cached_property
    def _samples(self) -> pa.Table:
        return self.data.samples("train")

    @cached_property
    def pools(self) -> Pools:
        """Training samples by identity and modality."""
        return Pools(self._samples)

    def evaluation_set(self, split: str) -> EvaluationSet:
        """The samples of a split that are encoded, and the queries made of them."""
        if split not in self._evaluation_sets:
            self._evaluation_sets[split] = EvaluationSet(self.data.samples(split), self.config.queries, split)
        return self._evaluation_sets[split]

    def plan(self, split: str, epoch: int, seed: int) -> pa.Table:
        """P identities of K rows each, batch by batch; or what `evaluation_plan` gives."""
        if split != "train":
            return self.evaluation_plan(split)
        for needed in self.eval_splits:
            self.evaluation_set(needed)
        return training_plan(self._samples, self.pools, self.config, np.random.default_rng((seed, epoch)))

    def evaluation_plan(self, split: str) -> pa.Table:
        """Every sample of a split, of training too, that is encoded, gallery first."""
        encoded = self.evaluation_set(split)
        return make_rows(self.data.samples(split), encoded.sample_NM, encoded.identity_N)

    def unmeasured(self) -> list[str]:
        """Those of METRICS that the split which is reported on has no queries for."""
        asked = self.evaluation_set(self.eval_splits[-1]).queries
        told = {name for c in asked for name in (f"map_{len(c)}", f"map_{evaluation.name_of(c)}")}
        return [name for name in METRICS if name.startswith("map_") and name not in told]

    def batch_rows(self, split: str) -> int:
        """Rows of a plan in one batch; fewer than the Config says where there are fewer than P identities."""
        c = self.config
        return min(c.batch, max(1, len(self.pools)) * c.per_identity) if split == "train" else c.score_batch

    def eval_shards(self, split: str) -> list[int]:
        """Batches' worth of samples: each is predicted for itself."""
        rows, size = len(self.evaluation_set(split).sample_NM), self.config.score_batch
        return [min(size, rows - start) for start in range(0, rows, size)]

    def compiled(self) -> list[torch.nn.Module]:
        """The tower of texts; the blocks of the other one are run by MER."""
        return [self.model.clip.transformer, self.model.mer]

    def param_groups(self) -> list[dict[str, Any]]:
        """See `MmReid.param_groups`."""
        return self.model.param_groups()

    def losses(self, batch: Mapping[str, Tensor], progress: float) -> dict[str, Tensor]:
        """See `losses.training_losses`."""
        return training_losses(self.model, self.config, batch, progress)

    def predictor(self) -> SampleFeatures:
        """Features of single samples, before fusion."""
        return SampleFeatures(self.model)

    def evaluate(self, predictions: Mapping[str, Arrays], setting: Mapping[str, float] | None = None) -> Scores:
        """METRICS of the last split given, in percent, under the given setting or the one chosen on calibration."""
        if setting is None:
            calibration = self._encoded("calibration", predictions["calibration"])
            setting = evaluation.choose_setting(calibration, self.config)
        split = list(predictions)[-1]
        return Scores(evaluation.metrics_of(self._encoded(split, predictions[split]), setting), dict(setting))

    def score_with(self, split: str, predictions: Arrays, setting: Mapping[str, float]) -> dict[str, float]:
        """METRICS, the mAP of each of the fifteen combinations, METRICS without the setting (`plain_...`), in percent;
        and how many captions were cut."""
        encoded = self._encoded(split, predictions)
        return {
            **evaluation.figures(encoded, setting),
            **{f"plain_{name}": value for name, value in evaluation.metrics_of(encoded, {}).items()},
            "captions_cut": float(self._captions_cut(self.data.samples(split))),
        }

    def _encoded(self, split: str, predictions: Arrays) -> Encoded:
        return Encoded(self.model, self.evaluation_set(split), predictions["feature"])

    def facts(self) -> dict[str, Any]:
        """Counts of what training leaves out or cuts: identities without vis or without anything else, long texts,
        faulty samples. The classifier's identities are of no use elsewhere."""
        left_out = {"unpaired_identities": self.pools.unpaired, "captions_cut": self._captions_cut(self._samples)}
        return {"counts": {**left_out, **self.data.skipped()}}

    def _captions_cut(self, samples: pa.Table) -> int:
        return cut_texts(samples.column("text").to_pylist(), self.read.context)

    def restore_facts(self, facts: Mapping[str, Any]) -> None:
        """Takes nothing: facts are counts for people."""
