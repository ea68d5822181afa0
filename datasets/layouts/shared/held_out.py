"""Which identities are held out from training where a data set names none: the same ones in every run."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable


def shuffled(identities: Iterable[int]) -> list[int]:
    """Identities in an order that depends on nothing but their numbers."""
    return sorted(set(identities), key=lambda i: (hashlib.sha256(str(i).encode()).digest(), i))


def take(identities: Iterable[int], share: float, least: int) -> set[int]:
    """A share of identities, rounded, at least `least` and never all of them."""
    order = shuffled(identities)
    return set(order[: min(max(round(share * len(order)), least), max(len(order) - 1, 0))])


def halves(identities: Iterable[int]) -> tuple[set[int], set[int]]:
    """Two halves; the first is the larger of an odd number."""
    order = shuffled(identities)
    middle = (len(order) + 1) // 2
    return set(order[:middle]), set(order[middle:])
