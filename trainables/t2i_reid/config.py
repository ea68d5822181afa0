"""What can be set in `t2i_reid`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ...datasets.problems import InputError
from ..layers.fusion import FusionKind
from ..layers.gradient_reversal import Schedule, Unit
from ..losses.contrastive import Positives
from ..losses.decoupling import Decoupling
from ..posthoc.reranking import Grid
from ..reid.evaluation import grid_of
from ..towers import text as text_towers
from ..towers import vit
from ..training.config import LoopConfig, bounded

QUERIES = {"caption": "text", "identity": "identity_text", "clothing": "clothing_text"}  # columns of the captions


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(LoopConfig):
    """What can be set; defaults as in the reference, where it is not at fault."""

    epochs: int = 80
    lr: float = 1e-4
    weight_decay: float = 1e-3
    batch: int = 128
    tower: str = "vit-base"
    weights: str | None = "google/vit-base-patch16-224"  # of the ViT: folder, s3:// prefix, hub id; null is random
    text_tower: str = "bert-base"
    text_weights: str | None = "google-bert/bert-base-uncased"  # of BERT, with its word pieces; null is random
    init: str | None = None  # of the whole model but its classifier: a folder or s3:// prefix of a package
    tower_lr: float | None = None  # of both towers; null is lr
    height_px: int = bounded(224, 8, 1024)
    width_px: int = bounded(224, 8, 1024)
    max_tokens: int = bounded(100, 3, 512)  # of a caption; longer ones are cut
    shared_dim: int = bounded(512, 8, 8192)
    embed_dim: int = bounded(256, 8, 8192)
    dropout: float = bounded(0.2, 0, 0.9)  # in the two MLPs
    fusion: FusionKind | None = None
    fusion_heads: int = bounded(4, 1, 64)
    fusion_dropout: float = bounded(0.1, 0, 0.9)
    fusion_top: int = bounded(32, 1, 100_000)  # pictures of a query that fusion ranks again, in evaluation
    temperature: float = bounded(0.1, 0.001, 10)
    positives: Positives = "share"  # other texts of the same person: positives, or left out
    match_text: Literal["identity", "caption"] = "identity"  # what info_nce and fuse match pictures with
    info_nce: float = bounded(1.0, 0, 100)  # weights of the losses
    cls: float = bounded(1.0, 0, 100)
    bio: float = bounded(0.5, 0, 100)
    cloth: float = bounded(0.5, 0, 100)
    cloth_adv: float = bounded(0.1, 0, 100)  # at its highest
    cloth_adv_kind: Literal["away", "reversal"] = "away"
    cloth_match: float = bounded(1.0, 0, 100)
    decouple: float = bounded(0.1, 0, 100)
    fuse: float = bounded(1.0, 0, 100)  # only with fusion
    decouple_kind: Decoupling = "cosine"
    decouple_on: Literal["projections", "features"] = "projections"
    grl_schedule: Schedule = "seed"
    grl_alpha: float = bounded(1.0, -10, 10)  # at its highest; 0 lets nothing through, below 0 it is not reversed
    grl_until: float = 45.0  # when the schedule ends, in schedule_unit: seed over 45 epochs is 0.1 + 0.02 epoch
    cloth_adv_until: float = 16.0  # when cloth_adv's weight is whole: over 16 epochs it is 0.2 + 0.05 epoch
    schedule_unit: Unit = "epochs"  # or `training`: shares of it
    per_identity: int = bounded(0, 0, 1024)  # rows of a person that come together in a batch; 0 shuffles all
    unmatched: float = bounded(0.5, 0, 1)  # share of rows that also meet a caption of another person's clothing
    hard_pool: int = bounded(8, 1, 1024)  # captions of which the most alike is that one; 1 is a random one
    flip: float = bounded(0.5, 0, 1)
    crop: float = bounded(0.1, 0, 0.9)  # most of each side that is cut off
    erase: float = bounded(0.0, 0, 1)
    query: Literal["caption", "identity", "clothing"] = "caption"  # what is asked with in evaluation
    score_batch: int = bounded(64, 1, 65_536)
    rerank_k1: tuple[int, ...] = (20,)  # tried post hoc: see posthoc.reranking
    rerank_k2: tuple[int, ...] = (6,)
    rerank_lambda: tuple[float, ...] = (0.3, 0.8)
    expand_k: tuple[int, ...] = (3,)
    expand_alpha: tuple[float, ...] = (3.0,)
    fusion_weight: tuple[float, ...] = (0.1, 0.3, 1.0)  # of the fused similarity beside the plain one

    def problems(self) -> list[str]:
        """All that is wrong with the values. Raises InputError for a tower that does not exist."""
        found = LoopConfig.problems(self)
        image, text = vit.sizes_of(self.tower), text_towers.sizes_of(self.text_tower)
        if image.width != text.width:
            found.append(f"tower and text_tower must be equally wide, got {image.width} and {text.width}")
        for name in ("height_px", "width_px"):
            if getattr(self, name) % image.patch or getattr(self, name) < image.patch:
                found.append(f"{name} must be a multiple of {image.patch} with {self.tower}, got {getattr(self, name)}")
        if self.max_tokens > text.context:
            found.append(f"max_tokens must be in 3..{text.context} with {self.text_tower}, got {self.max_tokens}")
        if self.fusion is not None and self.embed_dim % max(self.fusion_heads, 1):
            found.append(f"fusion_heads must divide embed_dim, got {self.fusion_heads} and {self.embed_dim}")
        if self.batch < 2 * max(1, self.per_identity) or self.batch % max(1, self.per_identity):
            found.append(
                "batch must hold at least two identities, in multiples of per_identity,"
                f" got {self.batch} and {self.per_identity}"
            )
        for name in ("grl_until", "cloth_adv_until"):
            highest = 1 if self.schedule_unit == "training" else 100_000
            if not 0 < getattr(self, name) <= highest:
                unit = self.schedule_unit
                found.append(f"{name} must be above 0 and at most {highest} in {unit}, got {getattr(self, name)}")
        return found + self._grid_problems()

    def _grid_problems(self) -> list[str]:
        try:
            self.grid().settings()
        except InputError as error:
            return [f"rerank and expand: {line}" for line in str(error).splitlines()]
        return []

    def grid(self) -> Grid:
        """The settings of re-ranking that are tried."""
        return grid_of(self.rerank_k1, self.rerank_k2, self.rerank_lambda, self.expand_k, self.expand_alpha)
