"""What can be set in `t2i_reid`; defaults as in the reference, where it is not at fault."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..choices import DecouplingKind, FusionKind, Positives, ReversalSchedule, ScheduleUnit
from ..reid.config import RETRIEVAL_METRICS, ReidConfig
from ..towers.sizes import image_sizes, pixel_problems, text_sizes
from ..training.config import bounded, fetched

METRICS = (*RETRIEVAL_METRICS, "feature_cosine")  # percent of the validation queries; the last one, less is better
QUERIES = {"caption": "text", "identity": "identity_text", "clothing": "clothing_text"}  # columns of the captions


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(ReidConfig):
    """Fields of t2i_reid; their defaults are the reference's training, where it is not at fault."""

    epochs: int = 80
    lr: float = 1e-4
    weight_decay: float = 1e-3
    batch: int = 128
    tower: str = "vit-base"
    weights: str | None = fetched("google/vit-base-patch16-224")  # of the ViT: folder, s3://, hub id; null is random
    text_tower: str = "bert-base"
    text_weights: str | None = fetched("google-bert/bert-base-uncased")  # of BERT, with its word pieces; null: random
    tower_lr: float | None = bounded(None, 0, 10)  # of both towers; null is lr
    height_px: int = 224
    width_px: int = 224
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
    decouple_kind: DecouplingKind = "cosine"
    decouple_on: Literal["projections", "features"] = "projections"
    grl_schedule: ReversalSchedule = "seed"
    grl_alpha: float = bounded(1.0, -10, 10)  # at its highest; 0 lets nothing through, below 0 it is not reversed
    grl_until: float = 45.0  # when the schedule ends, in schedule_unit: seed over 45 epochs is 0.1 + 0.02 epoch
    cloth_adv_until: float = 16.0  # when cloth_adv's weight is whole: over 16 epochs it is 0.2 + 0.05 epoch
    schedule_unit: ScheduleUnit = "epochs"  # or `training`: shares of it
    per_identity: int = bounded(0, 0, 1024)  # rows of a person that come together in a batch; 0 shuffles all
    unmatched: float = bounded(0.5, 0, 1)  # share of rows that also meet a caption of another person's clothing
    hard_pool: int = bounded(8, 1, 1024)  # captions of which the most alike is that one; 1 is a random one
    query: Literal["caption", "identity", "clothing"] = "caption"  # the part of a caption that is a query in evaluation
    rerank_k1: tuple[int, ...] = (20,)
    rerank_k2: tuple[int, ...] = (6,)
    rerank_lambda: tuple[float, ...] = (0.3, 0.8)
    expand_k: tuple[int, ...] = (3,)
    expand_alpha: tuple[float, ...] = (3.0,)
    fusion_weight: tuple[float, ...] = (0.1, 0.3, 1.0)  # tried post hoc: of the fused similarity beside the plain one

    @property
    def group_rows(self) -> int:
        """Rows of a person that come together in a batch, 1 or more."""
        return max(1, self.per_identity)

    def problems(self) -> list[str]:
        """All that is wrong with the values. Raises InputError for a tower that does not exist."""
        problems = ReidConfig.problems(self)
        image, text = image_sizes(self.tower), text_sizes(self.text_tower)
        if image.width != text.width:
            problems.append(f"tower and text_tower must be equally wide, got {image.width} and {text.width}")
        problems += pixel_problems({"height_px": self.height_px, "width_px": self.width_px}, image.patch, self.tower)
        if self.max_tokens > text.context:
            problems.append(f"max_tokens must be in 3..{text.context} with {self.text_tower}, got {self.max_tokens}")
        if self.fusion is not None and self.fusion_heads > 0 and self.embed_dim % self.fusion_heads:
            problems.append(f"fusion_heads must divide embed_dim, got {self.fusion_heads} and {self.embed_dim}")
        if self.batch < 2 * self.group_rows or self.batch % self.group_rows:
            problems.append(
                "batch must hold at least two identities, in multiples of per_identity,"
                f" got {self.batch} and {self.per_identity}"
            )
        highest = 1 if self.schedule_unit == "training" else 100_000
        for name in ("grl_until", "cloth_adv_until"):
            if not 0 < getattr(self, name) <= highest:
                unit = self.schedule_unit
                problems.append(f"{name} must be above 0 and at most {highest} in {unit}, got {getattr(self, name)}")
        return problems
