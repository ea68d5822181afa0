"""InfoNCE (arXiv 1807.03748) that knows who is who: pictures of one person are no negatives of each other.

Shapes: N rows, M columns; features have length 1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..choices import Positives


def info_nce(
    query_ND: Tensor,
    key_MD: Tensor,
    positive_NM: Tensor,
    temperature: float,
    ignored_NM: Tensor | None = None,
) -> Tensor:
    """One way: the mean over rows of -log of the share that each positive gets, in nats, averaged over a row's
    positives (arXiv 2004.11362, eq. 2). Ignored columns are neither positive nor negative; rows without a positive
    count for nothing."""
    logit_NM = query_ND @ key_MD.T / temperature
    return from_logits(logit_NM, positive_NM, ignored_NM)


def from_logits(logit_NM: Tensor, positive_NM: Tensor, ignored_NM: Tensor | None = None) -> Tensor:
    """`info_nce` from logits: similarities divided by the temperature."""
    if ignored_NM is not None:
        logit_NM = logit_NM.masked_fill(ignored_NM & ~positive_NM, float("-inf"))
    count_N = positive_NM.sum(1)
    # not where(): the gradient of -inf times 0 is not a number
    log_share_NM = logit_NM.log_softmax(1).masked_fill(~positive_NM, 0.0)
    loss_N = -log_share_NM.sum(1) / count_N.clamp(min=1)
    return loss_N.sum() / (count_N > 0).sum().clamp(min=1)


def symmetric_info_nce(
    image_BD: Tensor,
    text_BD: Tensor,
    same_BB: Tensor,
    temperature: float,
    how: Positives,
    same_text_BB: Tensor | None = None,
) -> Tensor:
    """Both ways between pictures and their texts, row by row; `same_BB` says which rows are of one person."""
    own_BB = torch.eye(len(same_BB), dtype=torch.bool, device=same_BB.device)
    positive_BB, ignored_BB = who(same_BB, own_BB, how, same_text_BB)
    there = info_nce(image_BD, text_BD, positive_BB, temperature, ignored_BB)
    back = info_nce(text_BD, image_BD, positive_BB.T, temperature, ignored_BB.T)
    return (there + back) / 2


def who(same_NM: Tensor, own_NM: Tensor, how: Positives, same_text_NM: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(positives, ignored) of pairs that are of one person, that are each other's own, that read the same.

    share    texts of the same person are positives like the own one
    mask     they are left out

    A text that also stands for another person is left out there: it is neither right nor wrong.
    """
    positive_NM = same_NM | own_NM if how == "share" else own_NM
    ignored_NM = same_NM if same_text_NM is None else same_NM | same_text_NM
    return positive_NM, ignored_NM & ~positive_NM
