"""What can be set in multi-modal re-identification; defaults as published."""

from __future__ import annotations

from dataclasses import dataclass

from ...datasets.problems import InputError
from ..losses.sdm import CLAMP, SdmKind
from ..posthoc import reranking
from ..reid.evaluation import grid_of
from ..towers import clip
from ..training.config import LoopConfig, bounded
from .model import MODALITIES
from .ramp import UNITS, Ramp, Unit, ramp_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(LoopConfig):
    """What can be set; defaults as published."""

    epochs: int = 60
    lr: float = 5e-5  # of MER, tokenizers, head and fusion
    tower_lr: float = bounded(1e-5, 0, 10)  # of CLIP
    classifier_lr: float = bounded(3e-3, 0, 10)
    batch: int = 32  # rows a step: per_identity of each of batch / per_identity identities (K and P)
    per_identity: int = bounded(4, 1, 1024)
    visits: int = bounded(1, 1, 1000)  # of an epoch to each identity
    clip_quantile: float | None = 0.9
    tower: str = "ViT-B-16"
    weights: str | None = "openai"  # of the towers: hub tag, file, s3:// object; null is random
    init: str | None = None  # of the whole model: a folder or s3:// prefix that a registry made
    freeze_image: bool = False  # CLIP's image tower; MER and tokenizers always learn
    freeze_text: bool = False
    height_px: int = 256
    width_px: int = 128
    lora_rank: int | tuple[int, ...] = 4  # one for all blocks, or one a block; 0 leaves a block as it is
    lora_alpha: float | tuple[float, ...] = 1.0  # divided by the rank
    width: int = bounded(512, 8, 8192)  # of a feature
    heads: int = bounded(8, 1, 64)  # of the SDM head and the fusion
    fusion_depth: int = bounded(1, 1, 12)
    fusion_ratio: float = bounded(2.0, 0.25, 16)  # hidden width of the mixer over the feature's
    fusion_dropout: float = bounded(0.1, 0, 0.9)
    dropout: float = bounded(0.1, 0, 0.9)  # before the classifier
    label_smoothing: float = bounded(0.1, 0, 0.9)
    sdm_kind: SdmKind = "soft_targets"
    sdm_weight: float = bounded(1.0, 0, 100)  # lambda at its highest
    sdm_ramp: Unit | None = None  # what the next two count; null: epochs, or shares of a training of less than 25
    sdm_start: float | None = None  # lambda is 0 up to here; null: 5 epochs of 60
    sdm_full: float | None = None  # and constant from here on; null: 25 epochs of 60
    temperature: float = bounded(0.2, 0.005, 10)
    norm_weight: float = bounded(0.01, 0, 100)
    norm_target: float = bounded(10.0, 0, 1000)  # length of a feature before the BNNeck
    norm_band: float = bounded(2.0, 0, 1000)  # to either side of the target that costs nothing
    modality_dropout: float = bounded(0.3, 0, 0.95)  # chance that a modality is left out of a training row
    min_modalities: int = bounded(1, 1, len(MODALITIES))  # that stay
    flip: float = bounded(0.5, 0, 1)
    crop: float = bounded(0.1, 0, 0.9)
    erase: float = bounded(0.0, 0, 1)
    queries: int = bounded(4, 1, 1000)  # of an identity in each combination, in evaluations
    score_batch: int = bounded(64, 1, 65_536)  # samples a step when scoring
    mix: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75)  # tried post hoc: share of the single modalities in a query
    text_weight: tuple[float, ...] = (0.5, 1.0, 2.0)  # of text in that share; an image weighs 1
    expand_k: tuple[int, ...] = ()  # gallery rows that join a query; none, and those below: not tried
    expand_alpha: tuple[float, ...] = (0.0, 3.0)  # power of their similarity
    rerank_k1: tuple[int, ...] = ()  # k-reciprocal re-ranking
    rerank_k2: tuple[int, ...] = (1, 6)
    rerank_lambda: tuple[float, ...] = (0.3, 0.6, 0.8)

    @property
    def ranks(self) -> tuple[int, ...]:
        """One, or one a block."""
        return self.lora_rank if isinstance(self.lora_rank, tuple) else (self.lora_rank,)

    @property
    def alphas(self) -> tuple[float, ...]:
        """One, or one a block."""
        return self.lora_alpha if isinstance(self.lora_alpha, tuple) else (self.lora_alpha,)

    @property
    def ramp(self) -> Ramp:
        """Of lambda."""
        return ramp_of(self.sdm_ramp, self.sdm_start, self.sdm_full, self.epochs)

    def problems(self) -> list[str]:
        """All that is wrong with the values. Raises InputError for a tower that does not exist."""
        found = LoopConfig.problems(self)
        sizes = clip.sizes_of(self.tower)
        if len(sizes.layers) != 1:
            choices = ", ".join(name for name, known in clip.SIZES.items() if len(known.layers) == 1)
            return [*found, f"tower must be a ViT, one of {choices}, got {self.tower!r}"]
        for name in ("height_px", "width_px"):
            px = getattr(self, name)
            if px % sizes.patch or px < sizes.patch:
                found.append(f"{name} must be a multiple of {sizes.patch} with {self.tower}, got {px}")
        for name, values, low, high in (("lora_rank", self.ranks, 0, 64), ("lora_alpha", self.alphas, 0, 256)):
            if len(values) not in (1, sizes.layers[0]):
                found.append(f"{name} must be one value or {sizes.layers[0]}, one a block, got {len(values)}")
            found += [f"{name} must be in {low}..{high}, got {v}" for v in values if not low <= v <= high]
        for name in ("width", "tower"):
            wide = self.width if name == "width" else sizes.embed_dim
            if wide % self.heads:
                found.append(f"heads must divide {wide}, the width of {name}, got {self.heads}")
        if self.batch % self.per_identity or self.batch < 2 * self.per_identity:
            found.append(f"batch must be a multiple of per_identity, twice or more, got {self.batch}")
        return found + self._problems_of_losses() + self._problems_of_grid()

    def grid(self) -> reranking.Grid:
        """The settings of re-ranking that are tried."""
        return grid_of(self.rerank_k1, self.rerank_k2, self.rerank_lambda, self.expand_k, self.expand_alpha)

    def _problems_of_grid(self) -> list[str]:
        found = [f"mix must be in 0..1, got {v}" for v in self.mix if not 0 <= v <= 1]
        found += [f"text_weight must be in 0..100, got {v}" for v in self.text_weight if not 0 < v <= 100]
        try:
            self.grid().settings()
        except InputError as error:
            found += [f"rerank and expand: {line}" for line in str(error).splitlines()]
        return found

    def _problems_of_losses(self) -> list[str]:
        found = []
        if self.sdm_kind == "soft_targets" and not CLAMP[0] <= self.temperature <= CLAMP[1]:
            found.append(f"temperature must be in {CLAMP[0]}..{CLAMP[1]} with soft_targets, got {self.temperature}")
        if self.sdm_ramp not in (*UNITS, None):
            return found
        ramp = self.ramp
        end = self.epochs if ramp.unit == "epochs" else 1
        if not 0 <= ramp.start < end:
            found.append(f"sdm_start must be >= 0 and < {end} where sdm_ramp counts {ramp.unit}, got {ramp.start:g}")
        if ramp.full <= ramp.start:
            found.append(f"sdm_full must be > sdm_start, {ramp.start:g}, got {ramp.full:g}")
        return found
