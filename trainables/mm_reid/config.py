"""What can be set in multi-modal re-identification; defaults as published."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from ..choices import SOFT_TARGET_TEMPERATURE, SdmKind
from ..reid.config import RETRIEVAL_METRICS, ReidConfig
from ..towers.sizes import CLIP, clip_sizes, pixel_problems
from ..training.config import bounded, fetched

CHANNELS = {"vis": 3, "nir": 1, "sk": 1, "cp": 3}  # of each modality of images, in the order of their numbers
MODALITIES = (*CHANNELS, "text")
VIS, TEXT = 0, len(CHANNELS)  # numbers of the gallery's modality and of text
QUERIED = tuple(range(VIS + 1, len(MODALITIES)))
METRICS = (
    *RETRIEVAL_METRICS,
    *(f"map_{size}" for size in range(1, len(QUERIED) + 1)),  # mean over the combinations of so many modalities
    *(f"map_{MODALITIES[m]}" for m in QUERIED),
)

RampUnit = Literal["epochs", "share"]
PUBLISHED_RAMP: dict[RampUnit, tuple[float, float]] = {"epochs": (5.0, 25.0), "share": (5 / 60, 25 / 60)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ramp:
    """The weight of a loss over the training: 0 up to `start`, its full value from `full` on, linear between.

    In epochs it steps with each (the first is epoch 1); in shares of the training it glides, so that a short
    training goes through all of it.
    """

    start: float = PUBLISHED_RAMP["epochs"][0]
    full: float = PUBLISHED_RAMP["epochs"][1]
    unit: RampUnit = "epochs"

    def __call__(self, progress: float, epochs: int) -> float:
        """The weight's share of its full value, 0..1, at a share of the training."""
        now = math.floor(progress * epochs + 1e-6) + 1 if self.unit == "epochs" else progress
        if now >= self.full:
            return 1.0
        return max(0.0, (now - self.start) / (self.full - self.start))


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(ReidConfig):
    """Fields of mm_reid; their defaults are the published training."""

    epochs: int = 60
    lr: float = 5e-5  # of MER, tokenizers, head and fusion
    tower_lr: float = bounded(1e-5, 0, 10)  # of CLIP
    classifier_lr: float = bounded(3e-3, 0, 10)
    batch: int = 32  # rows a step: per_identity of each of batch / per_identity identities (K and P)
    per_identity: int = bounded(4, 1, 1024)
    visits: int = bounded(1, 1, 1000)  # of an epoch to each identity
    clip_quantile: float | None = 0.9
    tower: str = "ViT-B-16"
    weights: str | None = fetched("openai")  # of the towers: hub tag, file, s3:// object; null is random
    freeze_image: bool = False  # CLIP's image tower; MER and tokenizers always learn
    freeze_text: bool = False
    lora_rank: int | tuple[int, ...] = bounded(4, 0, 64)  # one for all blocks, or one a block; 0 leaves one as it is
    lora_alpha: float | tuple[float, ...] = bounded(1.0, 0, 256)  # divided by the rank
    width: int = bounded(512, 8, 8192)  # of a feature
    heads: int = bounded(8, 1, 64)  # of the SDM head and the fusion
    fusion_depth: int = bounded(1, 1, 12)
    fusion_ratio: float = bounded(2.0, 0.25, 16)  # hidden width of the mixer over the feature's
    fusion_dropout: float = bounded(0.1, 0, 0.9)
    dropout: float = bounded(0.1, 0, 0.9)  # before the classifier
    label_smoothing: float = bounded(0.1, 0, 0.9)
    sdm_kind: SdmKind = "soft_targets"
    sdm_weight: float = bounded(1.0, 0, 100)  # lambda at its highest
    sdm_ramp: RampUnit | None = None  # what the next two count; null: epochs, or shares of a training of less than 25
    sdm_start: float | None = None  # lambda is 0 up to here; null: 5 epochs of 60
    sdm_full: float | None = None  # and constant from here on; null: 25 epochs of 60
    temperature: float = bounded(0.2, 0.005, 10)
    norm_weight: float = bounded(0.01, 0, 100)
    norm_target: float = bounded(10.0, 0, 1000)  # length of a feature before the BNNeck
    norm_band: float = bounded(2.0, 0, 1000)  # to either side of the target that costs nothing
    modality_dropout: float = bounded(0.3, 0, 0.95)  # chance that a modality is left out of a training row
    min_modalities: int = bounded(1, 1, len(MODALITIES))  # that stay, where the identity has as many
    queries: int = bounded(4, 1, 1000)  # of an identity in each combination, in evaluations
    mix: tuple[float, ...] = bounded((0.0, 0.25, 0.5, 0.75), 0, 1)  # tried post hoc: share of the single modalities
    text_weight: tuple[float, ...] = bounded((0.5, 1.0, 2.0), 0.01, 100)  # of text in that share; an image weighs 1

    @property
    def identities_a_batch(self) -> int:
        """P: how many identities a batch holds, where the data has as many."""
        return self.batch // self.per_identity

    @property
    def ranks(self) -> tuple[int, ...]:
        """LoRA's rank: one for all blocks, or one a block."""
        return self.lora_rank if isinstance(self.lora_rank, tuple) else (self.lora_rank,)

    @property
    def alphas(self) -> tuple[float, ...]:
        """LoRA's alpha: one for all blocks, or one a block."""
        return self.lora_alpha if isinstance(self.lora_alpha, tuple) else (self.lora_alpha,)

    @property
    def ramp(self) -> Ramp:
        """How lambda, the weight of SDM, grows; null is as published: in epochs where the training is long enough."""
        unit = self.sdm_ramp or ("epochs" if self.epochs >= PUBLISHED_RAMP["epochs"][1] else "share")
        start, full = PUBLISHED_RAMP[unit]
        return Ramp(
            start=start if self.sdm_start is None else self.sdm_start,
            full=full if self.sdm_full is None else self.sdm_full,
            unit=unit,
        )

    def problems(self) -> list[str]:
        """All that is wrong with the values. Raises InputError for a tower that does not exist."""
        problems = ReidConfig.problems(self)
        sizes = clip_sizes(self.tower)
        if not sizes.is_vit:
            choices = ", ".join(name for name, known in CLIP.items() if known.is_vit)
            return [*problems, f"tower must be a ViT, one of {choices}, got {self.tower!r}"]
        problems += pixel_problems({"height_px": self.height_px, "width_px": self.width_px}, sizes.patch, self.tower)
        for name, values in (("lora_rank", self.ranks), ("lora_alpha", self.alphas)):
            if len(values) not in (1, sizes.layers[0]):
                problems.append(f"{name} must be one value or {sizes.layers[0]}, one a block, got {len(values)}")
        for name, width in (("width", self.width), ("tower", sizes.embed_dim)):
            if self.heads > 0 and width % self.heads:
                problems.append(f"heads must divide {width}, the width of {name}, got {self.heads}")
        if self.per_identity > 0 and (self.batch % self.per_identity or self.batch < 2 * self.per_identity):
            problems.append(f"batch must be a multiple of per_identity, twice or more, got {self.batch}")
        return problems + self._problems_of_sdm()

    def _problems_of_sdm(self) -> list[str]:
        problems = []
        low, high = SOFT_TARGET_TEMPERATURE
        if self.sdm_kind == "soft_targets" and not low <= self.temperature <= high:
            problems.append(f"temperature must be in {low}..{high} with soft_targets, got {self.temperature}")
        if self.sdm_ramp is not None and self.sdm_ramp not in PUBLISHED_RAMP:
            return problems
        ramp = self.ramp
        end = self.epochs if ramp.unit == "epochs" else 1
        if not 0 <= ramp.start < end:
            problems.append(f"sdm_start must be >= 0 and < {end} where sdm_ramp counts {ramp.unit}, got {ramp.start:g}")
        if ramp.full <= ramp.start:
            problems.append(f"sdm_full must be > sdm_start, {ramp.start:g}, got {ramp.full:g}")
        return problems
