"""Multi-modal person re-identification: CLIP with MER and SDM (PRCV 2025, ORBench).

The gallery is photographs (vis); a query is one to four of near infrared (nir), sketch (sk), colour pencil (cp) and
text. The defaults are the published training: ViT-B/16, LoRA of rank 4 a modality, 8 identities of 4 rows a batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from ...datasets.frames.cache import FrameCache
from ...datasets.layouts.orbench import Orbench, check, holds
from ...datasets.problems import DataError, InputError
from ...datasets.storage.store import Store
from ...datasets.stream import Arrays
from ..coercion import plain
from ..contract import Predictor, Scores
from ..reid.classifier import load_all_but_classifier
from ..reid.images import CACHE_MIB, Augmentation, ImageReader
from ..reid.serving import encode
from ..towers import clip
from ..training.package import Package
from . import losses as objective
from .config import Config
from .data import Reader, cut_texts, make_rows
from .evaluate import METRICS, Encoded, EvaluationSet, Mix, choose_setting, figures
from .model import MODALITIES, MmReid
from .sampling import Pools, Sampling, draw
from .serve import Answers

__all__ = ["METRICS", "Config", "MmReid", "Task", "check_data", "example", "open_data", "serve"]


def open_data(store: Store | None) -> Orbench:
    """The data set at `store`."""
    if store is None:
        raise InputError("mm_reid needs data, got none")
    return Orbench(store)


def check_data(store: Store) -> None:
    """Raises DataError with all that is wrong and can be seen without decoding images."""
    findings = check(store, decode=False)
    if findings.problems:
        raise DataError(findings.problems)


def gallery(store: Store, split: str) -> pa.Table | None:
    """`path` and `identity` of a split's photographs; None where there is no such data set."""
    if not holds(store):
        return None
    samples = Orbench(store).samples(split)
    return samples.filter(pc.equal(samples["modality"], "vis"))


def serve(package: Package) -> Answers:
    """A packaged model, ready to answer."""
    config = Config(**plain(package.config))
    model = build_model(replace(config, weights=None, init=None), identities=1)
    model.load_state_dict(dict(package.weights))
    return Answers(model, config, package.setting)


def example(data: Orbench, config: Config) -> dict[str, list[Any]]:
    """A row of real input for `serve(...).predict`: all modalities of a person, and three people to choose from."""
    samples = data.samples("test").to_pylist()
    first: dict[tuple[str, int], dict[str, Any]] = {}
    for sample in samples:
        first.setdefault((sample["modality"], sample["identity"]), sample)
    people = sorted({i for modality, i in first if modality == "vis"})
    person = max(people, key=lambda i: sum((m, i) in first for m in MODALITIES))  # who has most modalities
    shown = [person, *(i for i in people if i != person)][:3]
    asked = {m: first[m, person] for m in MODALITIES[1:] if (m, person) in first}
    query = {m: [s["text"] if m == "text" else _file(data, s["path"])] for m, s in asked.items()}
    return {"gallery": [[_file(data, first["vis", i]["path"]) for i in shown]], **query}


def _file(data: Orbench, path: str) -> str:
    return encode(data.pictures.read(path)[0])


def build_model(config: Config, identities: int) -> MmReid:
    """The model of a Config, with its weights. Raises InputError when they don't fit."""
    towers = clip.build(config.tower, config.weights)
    model = MmReid(
        towers,
        identities,
        ranks=config.ranks,
        alphas=config.alphas,
        width=config.width,
        heads=config.heads,
        fusion_depth=config.fusion_depth,
        fusion_ratio=config.fusion_ratio,
        fusion_dropout=config.fusion_dropout,
        dropout=config.dropout,
    )
    if config.init is not None:
        load_all_but_classifier(model, config.init)
    if config.freeze_image:
        towers.visual.requires_grad_(False)
    if config.freeze_text:
        for part in (towers.transformer, towers.ln_final, towers.token_embedding):
            part.requires_grad_(False)
        towers.positional_embedding.requires_grad_(False)
        towers.text_projection.requires_grad_(False)
    return model


class Task:
    """MmReid under one Config on one data set."""

    eval_splits = ("calibration", "validation")
    loss_is_sum = False
    parts_may_rest = True  # modalities that a batch lacks

    def __init__(self, config: Config, data: Orbench) -> None:
        self.config, self.data = config, data
        self.model = build_model(config, max(1, len(self.pools)))
        images = ImageReader(config.height_px, config.width_px, FrameCache(CACHE_MIB))
        self.read = Reader(images, self.model.clip.sizes.context)
        self._questions: dict[str, EvaluationSet] = {}

    @cached_property
    def _samples(self) -> pa.Table:
        return self.data.samples("train")

    @cached_property
    def pools(self) -> Pools:
        """Training samples by identity and modality."""
        return Pools(self._samples)

    def skipped(self) -> dict[str, int]:
        """Counts of what training leaves out or cuts: identities without vis or without anything else, long texts."""
        return {"unpaired_identities": self.pools.unpaired, "captions_cut": self._captions_cut(self._samples)}

    def _captions_cut(self, samples: pa.Table) -> int:
        return cut_texts(samples.column("text").to_pylist(), self.read.context)

    def questions(self, split: str) -> EvaluationSet:
        """What is asked of a split."""
        if split not in self._questions:
            self._questions[split] = EvaluationSet(self.data.samples(split), self.config.queries)
        return self._questions[split]

    def plan(self, split: str, epoch: int, seed: int) -> pa.Table:
        """P identities of K rows each, batch by batch; or every sample of a split that is asked of, gallery first."""
        c = self.config
        if split == "train":
            self.pools.check()
            rng = np.random.default_rng((seed, epoch))
            sampling = Sampling(
                identities=c.batch // c.per_identity,
                rows=c.per_identity,
                dropout=c.modality_dropout,
                min_modalities=c.min_modalities,
                visits=c.visits,
            )
            label_B, found_BM = draw(self.pools, sampling, rng)
            varied = Augmentation(flip=c.flip, crop=c.crop, erase=c.erase)
            return make_rows(self._samples, found_BM, label_B, varied, rng)
        asked = self.questions(split)
        return make_rows(self.data.samples(split), asked.found_NM, asked.identity_N)

    def batch_rows(self, split: str) -> int:
        """Rows of a plan in one batch; fewer than the Config says where there are fewer than P identities."""
        c = self.config
        return min(c.batch, max(1, len(self.pools)) * c.per_identity) if split == "train" else c.score_batch

    def stretches(self, split: str) -> list[int]:
        """Batches' worth of samples: they know nothing of each other."""
        rows, each = len(self.questions(split).found_NM), self.config.score_batch
        return [min(each, rows - start) for start in range(0, rows, each)]

    def compiled(self) -> list[torch.nn.Module]:
        """The tower of texts; the other one's blocks are run by MER."""
        return [self.model.clip.transformer, self.model.mer]

    def param_groups(self) -> list[dict[str, Any]]:
        """CLIP slowly, MER, tokenizers, head and fusion faster, the classifier with a rate of its own."""
        model, c = self.model, self.config
        towers = [p for p in model.clip.parameters() if p.requires_grad]
        classifier = list(model.classifier.parameters())
        mine = {id(p) for p in (*towers, *classifier)}
        rest = [p for p in model.parameters() if p.requires_grad and id(p) not in mine]
        return [
            {"params": towers, "lr": c.tower_lr},
            {"params": rest},
            {"params": classifier, "lr": c.classifier_lr},
        ]

    def losses(self, batch: Mapping[str, Tensor], progress: float) -> dict[str, Tensor]:
        """Cross-entropy of identities, SDM and the penalty of lengths; beside them what is only watched."""
        return objective.losses(self.model, self.config, batch, progress)

    def predictor(self) -> Predictor:
        """Features of single samples, before fusion."""
        device = next(self.model.parameters()).device

        def predict(arrays: Mapping[str, Any]) -> Arrays:
            batch = {name: torch.as_tensor(array).to(device) for name, array in arrays.items()}
            grid_BMD, there_BM = objective.features(self.model, batch)
            return {"feature": grid_BMD[there_BM].float().cpu().numpy()}

        return predict

    def evaluate(self, predictions: Mapping[str, Arrays], setting: Mapping[str, float] | None = None) -> Scores:
        """METRICS of the last split given, under the given setting or the one chosen on calibration."""
        if setting is None:
            c = self.config
            mixes = [Mix(mix, weight) for mix in c.mix for weight in c.text_weight]
            setting = choose_setting(self._encoded("calibration", predictions["calibration"]), mixes, c.grid())
        split = list(predictions)[-1]
        found = figures(self._encoded(split, predictions[split]), setting)
        return Scores({name: found[name] for name in METRICS if name in found}, dict(setting))

    def examine(self, split: str, found: Arrays, setting: Mapping[str, float]) -> dict[str, float]:
        """METRICS, the mAP of each of the fifteen combinations, and METRICS without the setting."""
        encoded = self._encoded(split, found)
        plain_figures = figures(encoded, {})
        return {
            **figures(encoded, setting),
            **{f"plain_{name}": plain_figures[name] for name in METRICS if name in plain_figures},
            "captions_cut": float(self._captions_cut(self.data.samples(split))),
        }

    def _encoded(self, split: str, found: Arrays) -> Encoded:
        return Encoded(self.model, self.questions(split), found["feature"])

    def facts(self) -> dict[str, Any]:
        """What was cut or left out; the classifier's identities are of no use elsewhere."""
        return {"counts": {**self.skipped(), **self.data.skipped()}}

    def recall(self, _: Mapping[str, Any]) -> None:
        """Nothing."""
