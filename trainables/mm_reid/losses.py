"""The training objective of MmReid: identities, one space for all modalities, features of one length.

Shapes: B rows, S sets of modalities, M modalities, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812  its usual name
from torch import Tensor

from ..choices import SdmKind
from ..losses.sdm import sdm
from .config import MODALITIES, VIS, Config
from .model import MmReid

SEVERAL = len(MODALITIES)  # the kind of a set of more than one modality


class Sets(NamedTuple):
    """The sets of modalities that are fused of each row: every modality alone, as a gallery or a query of one is, and
    all but vis together, as a query of several."""

    row_S: Tensor  # the row it is of
    there_SM: Tensor  # its modalities
    kind_S: Tensor  # the modality, or SEVERAL


def sets_of(there_BM: Tensor) -> Sets:
    """The sets of rows, from the modalities that each row has."""
    row_N, modality_N = there_BM.nonzero(as_tuple=True)
    query_BM = there_BM.clone()
    query_BM[:, VIS] = False
    (several_C,) = (query_BM.sum(1) > 1).nonzero(as_tuple=True)
    single_NM = F.one_hot(modality_N, len(MODALITIES)).bool()
    kind_S = torch.cat([modality_N, torch.full_like(several_C, SEVERAL)])
    return Sets(torch.cat([row_N, several_C]), torch.cat([single_NM, query_BM[several_C]]), kind_S)


def aligned(kind: SdmKind, bn_SD: Tensor, identity_S: Tensor, kind_S: Tensor, temperature: float) -> Tensor:
    """SDM of vis with each other kind of set in the batch, their mean; 0 where vis or all others are missing."""
    vis_S = kind_S == VIS
    terms = [
        sdm(kind, bn_SD[vis_S], bn_SD[other_S], identity_S[vis_S], identity_S[other_S], temperature)
        for other_S in (kind_S == other for other in range(VIS + 1, SEVERAL + 1))
        if bool(vis_S.any()) and bool(other_S.any())
    ]
    return torch.stack(terms).mean() if terms else bn_SD.sum() * 0


def norm_penalty(raw_SD: Tensor, target: float, band: float) -> Tensor:
    """Mean squared distance of the features' lengths from target - band..target + band."""
    outside_S = ((raw_SD.float().norm(dim=-1) - target).abs() - band).clamp(min=0)
    return outside_S.square().mean()


def composition(label_B: Tensor, there_BM: Tensor) -> dict[str, Tensor]:
    """Of a batch, without gradient: `identities`, their number; `fewest_rows` of one; `paired`, the share of them with
    vis and something else."""
    identities, counts = torch.unique(label_B, return_counts=True)
    both = [(there_BM[label_B == i, VIS].any() & there_BM[label_B == i, VIS + 1 :].any()).float() for i in identities]
    return {
        "identities": torch.tensor(float(len(identities)), device=label_B.device),
        "fewest_rows": counts.min().float(),
        "paired": torch.stack(both).mean(),
    }


def training_losses(model: MmReid, c: Config, batch: Mapping[str, Tensor], progress: float) -> dict[str, Tensor]:
    """Weighted terms in nats: `identity`, `sdm`, `norm`. Without gradient, to be measured: `feature_norm`, the mean
    length of features, and the batch's `composition`."""
    grid_BMD, there_BM = model.encode_batch(batch)
    sets = sets_of(there_BM)
    raw_SD, bn_SD = model.fuse(grid_BMD[sets.row_S], sets.there_SM)
    identity_S = batch["label"][sets.row_S]
    weight = c.sdm_weight * c.ramp(progress, c.epochs)
    logit_SI = model.classify(bn_SD).float()
    return {
        "identity": F.cross_entropy(logit_SI, identity_S, label_smoothing=c.label_smoothing),
        "sdm": weight * aligned(c.sdm_kind, bn_SD, identity_S, sets.kind_S, c.temperature),
        "norm": c.norm_weight * norm_penalty(raw_SD, c.norm_target, c.norm_band),
        "feature_norm": raw_SD.detach().float().norm(dim=-1).mean(),
        **composition(batch["label"], there_BM),
    }
