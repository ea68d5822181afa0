"""Losses between pictures and descriptions of clothing.

Shapes: B pictures, P descriptions, D width; features have length 1. Of several rows of one person it is not known
whether the clothes are the same: such pairs are left out, unless the descriptions are word for word the same.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .contrastive import from_logits

ADVERSARY_START = 0.2  # of its weight, which the reference lets reach 1 after 16 epochs: 0.2 + 0.05 * epoch


def cloth_adversary(image_BD: Tensor, text_BD: Tensor, same_BB: Tensor, temperature: float) -> Tensor:
    """Pushes the agreement of pictures with their clothing's description down: the mean of -log softmax over the
    descriptions that are *not* a picture's own. `same_BB` marks descriptions that hold for a picture; they are left
    out of the mean, not counted in it as zeros. Descriptions get no gradient: the picture has to give way."""
    log_share_BB = (image_BD @ text_BD.detach().T / temperature).log_softmax(1)
    other_BB = ~same_BB
    return -(log_share_BB * other_BB).sum() / other_BB.sum().clamp(min=1)


def cloth_matching(
    image_BD: Tensor,
    text_PD: Tensor,
    image_of_P: Tensor,
    is_matched_P: Tensor,
    same_text_PP: Tensor,
    same_person_BP: Tensor,
    temperature: float,
) -> Tensor:
    """Symmetric InfoNCE over pairs (picture `image_of_P`, description), matched or not.

    A matched pair is a positive both ways. An unmatched pair is none: its description is one more negative of every
    picture, and the picture it was paired with is pushed away by -log(1 - share of the description that it gets).
    """
    pair_P = torch.arange(len(image_of_P), device=image_of_P.device)
    matched_P = is_matched_P.bool()
    own_BP = torch.zeros(len(image_BD), len(text_PD), dtype=torch.bool, device=image_BD.device)
    own_BP[image_of_P, pair_P] = matched_P
    refused_BP = torch.zeros_like(own_BP)
    refused_BP[image_of_P, pair_P] = ~matched_P
    positive_BP = (own_BP.float() @ same_text_PP.float() > 0) & ~refused_BP
    ignored_BP = same_person_BP & ~positive_BP & ~refused_BP
    logit_BP = image_BD @ text_PD.T / temperature
    there = from_logits(logit_BP, positive_BP, ignored_BP)
    # a description that no picture here fits has no positive: only its refusal counts below
    fits_PB = positive_BP.T & matched_P[:, None]
    masked_PB = logit_BP.T.masked_fill(ignored_BP.T, float("-inf"))
    back = from_logits(masked_PB, fits_PB)
    return (there + back) / 2 + _refusal(masked_PB, image_of_P, ~matched_P)


def _refusal(logit_PB: Tensor, image_of_P: Tensor, refused_P: Tensor) -> Tensor:
    share_P = logit_PB.softmax(1).gather(1, image_of_P[:, None])[:, 0]
    loss_P = -torch.log1p(-share_P.clamp(max=1 - 1e-6)) * refused_P
    return loss_P.sum() / refused_P.sum().clamp(min=1)
