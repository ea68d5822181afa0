"""Names of the variants of shared layers and losses, for Configs. Without torch: a Config is cheap to import."""

from __future__ import annotations

from typing import Literal

KumMode = Literal["cascade", "cross_correlation", "text_first"]  # layers.kum
FusionKind = Literal["pooled", "tokens"]  # layers.fusion
ReversalSchedule = Literal["seed", "linear", "dann", "constant"]  # layers.gradient_reversal
ScheduleUnit = Literal["epochs", "training"]  # what a schedule counts: epochs, or shares of the training
Positives = Literal["share", "mask"]  # losses.contrastive
DecouplingKind = Literal["cosine", "hsic"]  # losses.decoupling
SdmKind = Literal["soft_targets", "kl"]  # losses.sdm
SOFT_TARGET_TEMPERATURE = (0.15, 0.5)  # where soft targets clamp the temperature; sharper ones make the loss spike
