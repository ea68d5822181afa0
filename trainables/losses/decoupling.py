"""How much two features of the same rows say of each other.

Shapes: N rows, D and E widths.
"""

from __future__ import annotations

import torch.nn.functional as F  # noqa: N812  its usual name
from torch import Tensor

from ..choices import DecouplingKind


def mean_cosine(one_ND: Tensor, two_ND: Tensor) -> Tensor:
    """Mean of |cos| between the features of a row, 0..1. Between two trained projections it can reach 0 while the
    features stay as they are, so it is measured on the features too."""
    return F.cosine_similarity(one_ND, two_ND, dim=-1).abs().mean()


def hsic(one_ND: Tensor, two_NE: Tensor) -> Tensor:
    """Hilbert-Schmidt independence criterion with linear kernels of normalised rows: tr(K H L H) / (N - 1)^2 (Gretton
    et al., 2005, eq. 9). H centres both Gram matrices, so that it is never negative, and 0 for a constant feature;
    of one row it is 0."""
    count = len(one_ND)
    centred = [x - x.mean(0, keepdim=True) for x in (F.normalize(one_ND, dim=-1), F.normalize(two_NE, dim=-1))]
    cross_DE = centred[0].T @ centred[1]  # tr(K H L H) is the squared norm of the cross-covariance
    return cross_DE.square().sum() / max(count - 1, 1) ** 2


def decoupling(one_ND: Tensor, two_ND: Tensor, kind: DecouplingKind) -> Tensor:
    """`mean_cosine` or `hsic`, as `kind` says; a scalar."""
    return mean_cosine(one_ND, two_ND) if kind == "cosine" else hsic(one_ND, two_ND)
