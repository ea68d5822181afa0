"""What can be set in every re-identification model: the size of pictures, their augmentation, post-hoc re-ranking."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

from ...datasets.problems import InputError
from ..posthoc.settings import Grid
from ..training.config import LoopConfig, bounded, fetched

RETRIEVAL_METRICS = ("rank1", "rank5", "rank10", "map", "map100", "minp")  # percent; all better when larger


@dataclass(frozen=True, slots=True, kw_only=True)
class ReidConfig(LoopConfig):
    """Fields of every re-identification model's Config; each sets its own defaults."""

    init: str | None = fetched(None)  # of the whole model but its classifier: a folder or s3:// prefix of a package
    height_px: int = bounded(256, 8, 1024)
    width_px: int = bounded(128, 8, 1024)
    flip: float = bounded(0.5, 0, 1)  # share of training pictures that are mirrored
    crop: float = bounded(0.1, 0, 0.9)  # most of each side that is cut off, as a share
    erase: float = bounded(0.0, 0, 1)  # share of pictures in which a rectangle is made grey (arXiv 1708.04896)
    score_batch: int = bounded(64, 1, 65_536)  # rows a step when scoring
    rerank_k1: tuple[int, ...] = ()  # tried post hoc: see posthoc.settings; none switches that part off
    rerank_k2: tuple[int, ...] = (1, 6)
    rerank_lambda: tuple[float, ...] = (0.3, 0.6, 0.8)
    expand_k: tuple[int, ...] = ()  # gallery rows that join a query
    expand_alpha: tuple[float, ...] = (0.0, 3.0)  # power of their similarity

    def problems(self) -> list[str]:
        """All that is wrong with the values."""
        problems = LoopConfig.problems(self)
        try:
            self.grid().settings()
        except InputError as error:
            problems += [f"rerank and expand: {line}" for line in str(error).splitlines()]
        return problems

    def grid(self) -> Grid:
        """The settings of re-ranking that are tried."""
        expansions = [(k, alpha) for k, alpha in product(self.expand_k, self.expand_alpha) if k]
        return Grid(k1=self.rerank_k1, k2=self.rerank_k2, lam=self.rerank_lambda, qe=expansions)
