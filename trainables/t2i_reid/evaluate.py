"""The protocol of `t2i_reid`: captions that speak of what is searched by, against every picture of a split.

Shapes: Q queries, G pictures.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from ...datasets.layouts.cuhk_pedes import PersonText
from ...datasets.problems import DataError, Problem
from ...datasets.stream import Arrays
from ..metrics.retrieval import RetrievalTruth
from ..posthoc.reranking import Features
from ..reid.evaluation import Retrieval, choose
from .config import QUERIES, Config
from .model import T2iReid
from .predict import matches


def queries_of(data: PersonText, split: str, query: str) -> pa.Table:
    """The captions of a split that may be a query: those with words on what `query` names, one of QUERIES.

    Raises DataError when there are none.
    """
    captions = data.captions(split)
    speaking = [bool((text or "").strip()) for text in captions.column(QUERIES[query]).to_pylist()]
    if not any(speaking):
        raise DataError([Problem(data.store.uri, f"split {split} has no caption that says something of {query}")])
    return captions.filter(pa.array(speaking))


def retrieval(config: Config, model: T2iReid, data: PersonText, split: str, predictions: Arrays) -> Retrieval:
    """A split's queries against all its pictures; a text has no camera, so none is left out."""
    queries, pictures = (_rows(predictions, rows) for rows in (predictions["is_text"], ~predictions["is_text"]))
    identity_G = data.images(split).column("identity").to_numpy()
    identity_Q = identity_G[queries_of(data, split, config.query).column("image").to_numpy()]
    bonus_QG = None
    if config.fusion is not None and config.fuse > 0:
        bonus_QG = matches(model, queries, pictures, config.fusion_top)
    features = Features.of(queries["feature"], pictures["feature"])
    return Retrieval(features, RetrievalTruth(identity_Q, identity_G), bonus_QG)


def _rows(predictions: Arrays, rows: Any) -> Arrays:
    return {name: array[rows] for name, array in predictions.items()}


def choose_setting(config: Config, calibration: Retrieval) -> dict[str, float]:
    """The post-hoc setting with the best mAP on the calibration split; doing nothing wins a tie."""
    return choose([calibration], config.grid(), bonuses=config.fusion_weight)


def metrics_of(split: Retrieval, predictions: Arrays, setting: Mapping[str, float]) -> dict[str, float]:
    """METRICS under a setting, in percent."""
    return {**split.ranking(setting).figures(), "feature_cosine": float(100 * np.nanmean(predictions["cosine"]))}
