"""Predictions of `t2i_reid`: features of a split's pictures and queries, and fused similarities of their best pairs.

Shapes: N rows, Q queries, G pictures, S tokens a row, D width, P pairs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  its usual name
from numpy.typing import NDArray
from torch import Tensor

from ...datasets.stream import Arrays
from .model import Pictures, T2iReid, Texts
from .texts import TextTable

Floats = NDArray[np.float32]
PAIRS = 1024  # that are fused at a time


class FeaturePredictor:
    """Rows of an evaluation's plan to features; each row for itself."""

    def __init__(self, model: T2iReid, table: TextTable) -> None:
        self.model, self.table = model, table

    def __call__(self, batch: Mapping[str, Any]) -> Arrays:
        """`feature` (N x D, of length 1), `cosine` (|cos| of a picture's two features, NaN for texts), `is_text`, and
        for fusion of tokens `token` (N x S x D, half precision) and `tokens` (how many are there)."""
        device = next(self.model.parameters()).device
        number_N = np.asarray(batch["text"])
        is_text_N = number_N >= 0
        parts: dict[bool, Arrays] = {}
        if not is_text_N.all():
            parts[False] = self.of_pictures(torch.as_tensor(np.array(batch["image"]), device=device))
        if is_text_N.any():
            parts[True] = self.of_texts(self.table.ids(number_N[is_text_N], device))
        rows: Arrays = {"is_text": is_text_N}
        for name in next(iter(parts.values())):
            first = next(iter(parts.values()))[name]
            rows[name] = np.empty((len(number_N), *first.shape[1:]), first.dtype)
            for kind, part in parts.items():
                rows[name][is_text_N == kind] = part[name]
        return rows

    @torch.no_grad()
    def of_pictures(self, image_NHW3: Tensor) -> Arrays:
        """Features of N pictures of bytes, as arrays of N rows."""
        pictures = self.model.encode_images(image_NHW3)
        cosine_N = F.cosine_similarity(pictures.id_BW, pictures.cloth_BW, dim=-1).abs()
        return {
            "feature": _array(pictures.image_BD),
            "cosine": _array(cosine_N),
            **self._tokens(pictures.patch_BLD, None, len(image_NHW3)),
        }

    @torch.no_grad()
    def of_texts(self, ids_NT: Tensor) -> Arrays:
        """Features of N texts of token ids, as arrays of N rows."""
        texts = self.model.encode_texts(ids_NT)
        return {
            "feature": _array(texts.text_ED),
            "cosine": np.full(len(ids_NT), np.nan, np.float32),
            **self._tokens(texts.word_ETD, texts.word_mask_ET, len(ids_NT)),
        }

    def _tokens(self, token_NSD: Tensor | None, there_NS: Tensor | None, rows: int) -> Arrays:
        if token_NSD is None:
            return {}
        most = max(self.model.image_tower.places, self.table.most_tokens)
        padded = np.zeros((rows, most, token_NSD.shape[-1]), np.float16)
        if there_NS is not None:
            token_NSD = token_NSD * there_NS[..., None]  # what is not there must not tell how long others were
        padded[:, : token_NSD.shape[1]] = token_NSD.float().cpu().numpy()
        count_N = np.full(rows, token_NSD.shape[1]) if there_NS is None else there_NS.sum(1).cpu().numpy()
        return {"token": padded, "tokens": count_N.astype(np.int64)}


@torch.no_grad()
def matches(model: T2iReid, queries: Arrays, pictures: Arrays, most: int) -> Floats:
    """The share, 0..1, that fusion gives each query's `most` best pictures; 0 for the others, Q x G."""
    similarity_QG = queries["feature"] @ pictures["feature"].T
    most = min(most, similarity_QG.shape[1])
    # of equal ones the first: the choice must not depend on how a sort goes
    best_QM = np.argsort(-similarity_QG, axis=1, kind="stable")[:, :most]
    query_P, picture_P = np.repeat(np.arange(len(best_QM)), most), best_QM.ravel()
    share_QG = np.zeros(similarity_QG.shape, np.float32)
    device = next(model.parameters()).device
    for start in range(0, len(query_P), PAIRS):
        q, g = query_P[start : start + PAIRS], picture_P[start : start + PAIRS]
        logit_P = model.matching(_as_pictures(pictures, g, device), _as_texts(queries, q, device))
        share_QG[q, g] = _array(logit_P.sigmoid())
    return share_QG


def _as_pictures(predicted: Arrays, rows: NDArray[np.int64], device: torch.device) -> Pictures:
    """Pictures as far as fusion reads them."""
    feature_PD, patch_PLD = torch.as_tensor(predicted["feature"][rows], device=device), None
    if "token" in predicted:
        patch_PLD = torch.as_tensor(predicted["token"][rows, : int(predicted["tokens"][0])], device=device).float()
    return Pictures(feature_PD, feature_PD, feature_PD, feature_PD, patch_PLD)


def _as_texts(predicted: Arrays, rows: NDArray[np.int64], device: torch.device) -> Texts:
    """Texts as far as fusion reads them."""
    feature_PD = torch.as_tensor(predicted["feature"][rows], device=device)
    if "token" not in predicted:
        return Texts(feature_PD, None, None)
    count_P = predicted["tokens"][rows]
    longest = int(count_P.max())
    word_PTD = torch.as_tensor(predicted["token"][rows, :longest], device=device).float()
    there_PT = torch.as_tensor(np.arange(longest) < count_P[:, None], device=device)
    return Texts(feature_PD, word_PTD, there_PT)


def _array(tensor: Tensor) -> Floats:
    return np.asarray(tensor.float().cpu().numpy())
