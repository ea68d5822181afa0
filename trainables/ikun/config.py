"""What can be set in iKUN (arXiv 2312.16245); defaults as published."""

from __future__ import annotations

from dataclasses import dataclass

from ..choices import KumMode
from ..towers.sizes import clip_sizes, pixel_problems
from ..training.config import LoopConfig, bounded, fetched

METRICS = ("hota", "deta", "assa", "precision", "recall", "auc")  # of the validation videos; all better when larger


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(LoopConfig):
    """Fields of iKUN; their defaults are the published training."""

    epochs: int = 100
    lr: float = 1e-5
    weight_decay: float = 1e-5
    batch: int = 8  # windows a step
    tower: str = "RN50"
    weights: str | None = fetched("openai")  # of the towers: hub tag, file, s3:// object; null is random
    init: str | None = fetched(None)  # of the whole model: a folder or s3:// prefix of a package
    tower_lr: float | None = bounded(None, 0, 10)  # of the CLIP towers; null is lr
    freeze_text: bool = True  # text transformer, its norm and projection, as published; random towers must learn
    lora_rank: int = bounded(0, 0, 64)  # 0 trains the visual tower whole; ViT only
    lora_alpha: float = bounded(16.0, 0, 256)
    kum_mode: KumMode | None = None
    crop_px: int = bounded(224, 8, 2048)
    frame_px: int = bounded(672, 8, 4096)
    feature_dim: int = bounded(1024, 8, 8192)
    heads: int = bounded(4, 1, 64)
    text_tokens: int = bounded(10, 1, 77)  # of an expression that cascade attends to
    dropout: float = bounded(0.1, 0, 0.9)  # in cross correlation and text-first modulation
    geometry: bool = False  # a token for the box's place and motion; beyond the published model
    gamma: float = bounded(2.0, 0, 10)  # focal exponent; 0 is plain cross-entropy
    rho: float | None = bounded(None, 0, 100)  # weight of positives; null is 1
    logit_scale: float = bounded(1.0, 0.01, 100)  # times the cosine before the loss; published: 1
    guidance_start: float = bounded(0.0, 0, 1)  # share of the training before text guides the visual feature
    windows_per_track: int = bounded(1, 1, 1000)  # an epoch
    expressions_per_window: int = bounded(1, 1, 512)
    positive_share: float | None = bounded(None, 0, 1)  # of them; null draws from all candidates alike
    crop_scale: float = bounded(0.08, 0.01, 1)  # smallest area share of RandomResizedCrop; 1 is no augmentation
    window_frames: int = bounded(8, 1, 1000)
    window_stride: int = bounded(4, 1, 1000)  # frames from one scored window to the next
    looks: int = bounded(2, 1, 64)  # frames of a window that are looked at
    tracks: str = "tracks"  # folder of tracker output
    strict_bounds: bool = False  # leave out first and last frame, as the published evaluation does
    eval_normalises_text: bool = False  # a quirk of the published evaluation, kept for its checkpoints
    score_batch: int = bounded(16, 1, 65_536)  # frames a step when scoring
    calibration_a: tuple[float, ...] = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0)  # tried post hoc
    calibration_tau: tuple[float, ...] = (10.0, 30.0, 100.0)
    calibration_thresholds: int = bounded(96, 2, 10_000)  # quantiles of the scores, for each (a, tau)

    def problems(self) -> list[str]:
        """All that is wrong with the values. Raises InputError for a tower that does not exist."""
        problems = LoopConfig.problems(self)
        sizes = clip_sizes(self.tower)
        if self.lora_rank and not sizes.is_vit:
            problems.append(f"lora_rank needs a ViT tower, got {self.tower!r}")
        problems += pixel_problems({"crop_px": self.crop_px, "frame_px": self.frame_px}, sizes.stride, self.tower)
        if self.looks and self.window_frames % self.looks:
            problems.append(f"looks must divide window_frames, got {self.looks} and {self.window_frames}")
        return problems
