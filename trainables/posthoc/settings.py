"""Settings of retrieval that need no training: what one is, which are tried. Without torch, for Configs.

A setting is a flat mapping, to travel as JSON with a model:

    k1, k2, lambda     k-reciprocal re-ranking (arXiv 1701.08398); lambda is the share of the plain distance: 1 is plain
    qe_k, qe_alpha     query expansion (arXiv 1711.02512, sec. 4.3); qe_k 0 is none
    weight_NAME        of a kind of feature where there are several; missing ones are 1
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...datasets.problems import InputError

Setting = Mapping[str, float]
PLAIN: Setting = {"k1": 0, "k2": 0, "lambda": 1.0, "qe_k": 0, "qe_alpha": 0.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Values to try; every combination is, and the plain ranking is always among them."""

    k1: Sequence[int] = (10, 20)  # the paper's is 20
    k2: Sequence[int] = (1, 6)  # the paper's is 6; 1 is none
    lam: Sequence[float] = (0.3, 0.6, 0.8)  # the paper's is 0.3
    qe: Sequence[tuple[int, float]] = ((3, 0.0), (3, 3.0), (8, 3.0))  # (qe_k, qe_alpha)
    weights: Sequence[Mapping[str, float]] = ()  # of kinds, by name; see `weightings`

    def settings(self) -> list[dict[str, float]]:
        """All combinations, plain first: ties go to the earlier. Raises InputError with all that is wrong with one."""
        weights = [{}, *({f"weight_{kind}": float(w) for kind, w in one.items()} for one in self.weights)]
        tried = []
        for weight, (qe_k, alpha) in itertools.product(weights, [(0, 0.0), *self.qe]):
            base: dict[str, float] = {**PLAIN, "qe_k": qe_k, "qe_alpha": alpha if qe_k else 0.0, **weight}
            ranked = itertools.product(self.k1, self.k2, self.lam)
            tried += [base, *({**base, "k1": k1, "k2": k2, "lambda": lam} for k1, k2, lam in ranked if lam < 1)]
        tried = list({tuple(sorted(s.items())): s for s in tried}.values())
        for setting in tried:
            check_setting(setting)
        return tried


def weightings(kinds: Sequence[str], steps: int = 4) -> list[dict[str, float]]:
    """All weights in multiples of 1/steps that sum to 1."""
    shares = itertools.product(range(steps + 1), repeat=len(kinds))
    return [{k: n / steps for k, n in zip(kinds, s, strict=True)} for s in shares if sum(s) == steps]


def check_setting(setting: Setting, kinds: Sequence[str] | None = None) -> None:
    """Raises InputError with all that is wrong with a setting; with `kinds`, weights of other kinds too."""
    known = {*PLAIN, *(f"weight_{kind}" for kind in kinds or ())}
    unknown = sorted(k for k in setting if k not in known and (kinds is not None or not k.startswith("weight_")))
    problems = [f"a setting has {', '.join(sorted(known))}, got {', '.join(unknown)}"] if unknown else []
    full = {**PLAIN, **setting}
    least = {"k1": 0, "k2": 0, "qe_k": 0} if full["lambda"] == 1 else {"k1": 1, "k2": 1, "qe_k": 0}
    for name, low in least.items():
        if full[name] != int(full[name]) or full[name] < low:
            problems.append(f"{name} must be a whole number >= {low}, got {full[name]}")
    if not 0 <= full["lambda"] <= 1:
        problems.append(f"lambda must be in 0..1, got {full['lambda']}")
    if full["qe_alpha"] < 0:
        problems.append(f"qe_alpha must be >= 0, got {full['qe_alpha']}")
    problems += [f"{k} must be >= 0, got {v}" for k, v in setting.items() if k.startswith("weight_") and not v >= 0]
    if problems:
        raise InputError("\n".join(problems))
