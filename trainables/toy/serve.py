"""A packaged toy, ready to answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from ..coercion import make_packaged_config
from ..training.package import Package
from .config import Config


class Line:
    """The trained weight as a line through the origin."""

    def __init__(self, weight: float) -> None:
        self.weight = weight

    def predict(self, rows: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
        """`height` of each `x`."""
        return {"height": [self.weight * float(x) for x in rows["x"]]}


def serve(package: Package) -> Line:
    """The line of a packaged weight. Raises InputError for a package of another Config or of other
    weights."""
    make_packaged_config(Config, package.config)
    model = nn.Linear(1, 1, bias=False)
    package.load_into(model)
    return Line(model.weight.item())


def example(_: None, __: Config) -> dict[str, list[Any]]:
    """One row: an `x`."""
    return {"x": [1.0]}
