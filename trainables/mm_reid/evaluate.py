"""MmReid's protocol: the gallery is vis alone, a query any one to four of near infrared, sketch, colour pencil, text.

Every sample is encoded once; what is fused of them, the fifteen combinations, is cheap. Query j of an identity takes
the j-th sample of each modality (or starts over where there are fewer); an identity that lacks a modality of a
combination has no query there. `map` and the like are means over combinations, each counting the same.

A query's feature may be mixed, post hoc, with those of its modalities alone:
q = (1 - mix) fused + mix * weighted mean of the modalities', where text weighs `text_weight` and an image 1.

Shapes: N samples, Q queries, M modalities, D width, G gallery rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import combinations

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from ...datasets.problems import DataError, Problem
from ..metrics.retrieval import RetrievalTruth
from ..posthoc.reranking import Features
from ..reid.config import RETRIEVAL_METRICS
from ..reid.evaluation import Retrieval, choose, mean_figures
from .config import METRICS, MODALITIES, QUERIED, TEXT, VIS, Config
from .model import MmReid

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Combination = tuple[int, ...]

COMBINATIONS: tuple[Combination, ...] = tuple(
    chosen for size in range(1, len(QUERIED) + 1) for chosen in combinations(QUERIED, size)
)
CHUNK = 4096  # sets fused at once


def name_of(combination: Combination) -> str:
    """Its modalities' names: `nir+text`, say."""
    return "+".join(MODALITIES[m] for m in combination)


class EvaluationSet:
    """The samples of a split that are encoded, in which order, and which of them make each query.

    Combinations of which no query has a right answer in the gallery are left out. Raises DataError for a split that has
    no other.
    """

    def __init__(self, samples: pa.Table, queries: int, split: str = "evaluation") -> None:
        modality = np.array(samples.column("modality").to_pylist(), np.str_)
        identity: Ints = samples.column("identity").to_numpy().astype(np.int64)
        by_modality = [np.flatnonzero(modality == name) for name in MODALITIES]
        used = [by_modality[VIS]]
        pools: dict[int, list[Ints]] = {}
        for person in np.unique(identity):
            pools[int(person)] = [rows[identity[rows] == person][:queries] for rows in by_modality]
            used += pools[int(person)][VIS + 1 :]
        order = np.concatenate(used)
        number = np.full(len(modality), -1, np.int64)
        number[order] = np.arange(len(order))
        self.gallery = number[by_modality[VIS]]
        self.identity_N = identity[order]
        self.modality_N = np.array([MODALITIES.index(m) for m in modality[order].tolist()], np.int64)
        self.sample_NM = np.full((len(order), len(MODALITIES)), -1, np.int64)  # one sample a row of the plan
        self.sample_NM[np.arange(len(order)), self.modality_N] = order
        of_identities = {c: [_queries([number[pools[p][m]] for m in c]) for p in pools] for c in COMBINATIONS}
        joined = {c: np.concatenate(rows) for c, rows in of_identities.items() if rows}
        shown = self.identity_N[self.gallery]
        self.queries = {c: rows for c, rows in joined.items() if np.isin(self.identity_N[rows[:, 0]], shown).any()}
        if not self.queries:
            what = f"split {split} needs vis and another modality of one identity, got {len(self.gallery)} vis samples"
            others = f"{len(order) - len(self.gallery)} others of other identities"
            raise DataError([Problem("evaluation", f"{what} and {others}")])


def _queries(pools: Sequence[Ints]) -> Ints:
    """Samples of an identity's queries, Q x modalities; none where a modality is missing."""
    if not all(len(pool) for pool in pools):
        return np.zeros((0, len(pools)), np.int64)
    count = max(len(pool) for pool in pools)
    return np.stack([pool[np.arange(count) % len(pool)] for pool in pools], 1)


@dataclass(frozen=True, slots=True)
class Mix:
    """How a query of several modalities is made of its fused feature and the single ones."""

    mix: float = 0.0
    text_weight: float = 1.0

    def __call__(self, fused_QD: Floats, single_QMD: Floats, combination: Combination) -> Floats:
        """Q x D of length 1; a query of one modality is its own mixture."""
        if not self.mix or len(combination) == 1:
            return fused_QD
        weight_M = np.array([self.text_weight if m == TEXT else 1.0 for m in combination], np.float32)
        alone_QD = np.einsum("qmd,m->qd", single_QMD, weight_M / weight_M.sum())
        return normalised((1 - self.mix) * fused_QD + self.mix * alone_QD)


class Encoded:
    """A split's bn_features of length 1: of the gallery, of every single sample, of every query."""

    def __init__(self, model: MmReid, samples: EvaluationSet, feature_ND: Floats) -> None:
        self._samples = samples
        self._single_ND = fused(model, feature_ND, samples.modality_N[:, None], np.arange(len(feature_ND))[:, None])
        self._fused = {
            c: fused(model, feature_ND, np.broadcast_to(c, rows.shape), rows)
            if len(c) > 1
            else self._single_ND[rows[:, 0]]
            for c, rows in samples.queries.items()
        }

    def retrievals(self, mix: Mix) -> dict[Combination, Retrieval]:
        """Every combination's queries against the gallery."""
        s = self._samples
        return {
            c: Retrieval(
                Features.of(mix(self._fused[c], self._single_ND[rows], c), self._single_ND[s.gallery]),
                RetrievalTruth(s.identity_N[rows[:, 0]], s.identity_N[s.gallery]),
            )
            for c, rows in s.queries.items()
        }


@torch.no_grad()
def fused(model: MmReid, feature_ND: Floats, modality_QM: NDArray[np.int64], rows_QM: Ints) -> Floats:
    """bn_features of length 1 of sets of samples, Q x D, as they are fused in training."""
    device = model.neck.weight.device
    chunks: list[Floats] = []
    for start in range(0, len(rows_QM), CHUNK):
        rows, modality = rows_QM[start : start + CHUNK], modality_QM[start : start + CHUNK]
        at = np.arange(len(rows))[:, None]
        feature_SMD = np.zeros((len(rows), len(MODALITIES), feature_ND.shape[1]), np.float32)
        there_SM = np.zeros(feature_SMD.shape[:2], bool)
        feature_SMD[at, modality], there_SM[at, modality] = feature_ND[rows], True
        _, bn_SD = model.fuse(torch.from_numpy(feature_SMD).to(device), torch.from_numpy(there_SM).to(device))
        chunks.append(normalised(bn_SD.float().cpu().numpy()))
    return np.concatenate(chunks) if chunks else np.zeros((0, feature_ND.shape[1]), np.float32)


def normalised(feature_ND: NDArray[np.floating]) -> Floats:
    """Rows of length 1."""
    return np.asarray(feature_ND / np.maximum(np.linalg.norm(feature_ND, axis=1, keepdims=True), 1e-12), np.float32)


def choose_setting(encoded: Encoded, config: Config) -> dict[str, float]:
    """The post-hoc setting with the best mean mAP: the mixture first, then re-ranking of what it gives. Of equal ones
    the first, so that changing nothing wins a tie."""
    mixes = [Mix(), *(Mix(mix, weight) for mix in config.mix for weight in config.text_weight if mix)]
    values = [mean_figures(list(encoded.retrievals(mix).values()), {})["map"] for mix in mixes]
    best = mixes[int(np.argmax(values))]
    chosen = choose(list(encoded.retrievals(best).values()), config.grid())
    return {**asdict(best), **chosen}


def parted(setting: Mapping[str, float]) -> tuple[Mix, dict[str, float]]:
    """The mixture of a setting, and the rest of it: re-ranking's part."""
    own = {f.name: setting[f.name] for f in fields(Mix) if f.name in setting}
    return Mix(**own), {name: value for name, value in setting.items() if name not in own}


def figures(encoded: Encoded, setting: Mapping[str, float]) -> dict[str, float]:
    """METRICS under a setting, in percent, without those that the split has no queries for; and `map_<combination>`
    of each combination."""
    mix, rest = parted(setting)
    by_combination = {c: r.ranking(rest).figures() for c, r in encoded.retrievals(mix).items()}
    means = {name: float(np.mean([f[name] for f in by_combination.values()])) for name in RETRIEVAL_METRICS}
    for size, values in _by_size(by_combination):
        means[f"map_{size}"] = float(np.mean(values))
    return means | {f"map_{name_of(c)}": f["map"] for c, f in by_combination.items()}


def metrics_of(encoded: Encoded, setting: Mapping[str, float]) -> dict[str, float]:
    """METRICS alone under a setting, in percent, without those that the split has no queries for."""
    all_figures = figures(encoded, setting)
    return {name: all_figures[name] for name in METRICS if name in all_figures}


def _by_size(figures_of: Mapping[Combination, Mapping[str, float]]) -> Iterator[tuple[int, list[float]]]:
    for size in sorted({len(c) for c in figures_of}):
        yield size, [f["map"] for c, f in figures_of.items() if len(c) == size]
