"""Similarity distribution matching between one anchor modality and another, by identity.

Shapes: A anchors, B others, D width of a feature.
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F  # noqa: N812  its usual name
from torch import Tensor

from ..choices import SOFT_TARGET_TEMPERATURE, SdmKind

EPS = 1e-8


def soft_target_sdm(
    anchor_AD: Tensor, other_BD: Tensor, anchor_id_A: Tensor, other_id_B: Tensor, temperature: float
) -> Tensor:
    """Symmetric cross-entropy against a target that is uniform over entries of the same identity, in nats.

    As the published code of CLIP with MER has it: the temperature is clamped to .15..0.5, and a row without an entry
    of its identity is skipped.
    """
    low, high = SOFT_TARGET_TEMPERATURE
    logit_AB, same_AB = _compare(anchor_AD, other_BD, anchor_id_A, other_id_B, min(max(temperature, low), high))

    def rows(logit: Tensor, same: Tensor) -> Tensor:
        target = same / same.sum(1, keepdim=True)
        return -(target * F.log_softmax(logit, 1)).sum(1)

    return (_mean_of_rows(rows, logit_AB, same_AB) + _mean_of_rows(rows, logit_AB.T, same_AB.T)) / 2


def kl_sdm(anchor_AD: Tensor, other_BD: Tensor, anchor_id_A: Tensor, other_id_B: Tensor, temperature: float) -> Tensor:
    """KL(prediction || target) in both directions, added, in nats (IRRA, arXiv 2303.12501, eq. 5 to 7)."""
    logit_AB, same_AB = _compare(anchor_AD, other_BD, anchor_id_A, other_id_B, temperature)

    def rows(logit: Tensor, same: Tensor) -> Tensor:
        target = same / same.sum(1, keepdim=True)
        log_prediction = F.log_softmax(logit, 1)
        return (log_prediction.exp() * (log_prediction - (target + EPS).log())).sum(1)

    return _mean_of_rows(rows, logit_AB, same_AB) + _mean_of_rows(rows, logit_AB.T, same_AB.T)


def sdm(
    kind: SdmKind, anchor_AD: Tensor, other_BD: Tensor, anchor_id_A: Tensor, other_id_B: Tensor, temperature: float
) -> Tensor:
    """Either of them; 0 where no row has an entry of its identity."""
    loss = soft_target_sdm if kind == "soft_targets" else kl_sdm
    return loss(anchor_AD, other_BD, anchor_id_A, other_id_B, temperature)


def _compare(
    anchor_AD: Tensor, other_BD: Tensor, anchor_id_A: Tensor, other_id_B: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    cosine_AB = F.normalize(anchor_AD.float(), dim=-1) @ F.normalize(other_BD.float(), dim=-1).T
    return cosine_AB / temperature, (anchor_id_A[:, None] == other_id_B[None]).float()


def _mean_of_rows(rows: Callable[[Tensor, Tensor], Tensor], logit: Tensor, same: Tensor) -> Tensor:
    has = same.any(1)
    if not has.any():
        return logit.sum() * 0
    return rows(logit[has], same[has]).mean()
