"""The search space of multi-modal re-identification, and why each bound is where it is."""

from __future__ import annotations

from typing import Any

import optuna

# The published training, in the same names. Its ramp of lambda is given in epochs, 5 and 25 of 60.
DEFAULTS: dict[str, Any] = {
    "tower": "ViT-B-16",
    "weights": "openai",
    "lr": 5e-5,
    "tower_lr_ratio": 0.2,
    "classifier_lr": 3e-3,
    "weight_decay": 1e-4,
    "freeze_text": False,
    "lora_sharing": "shared",
    "lora_rank": 4,
    "lora_alpha": 1.0,
    "sdm_kind": "soft_targets",
    "temperature": 0.2,
    "sdm_weight": 1.0,
    "sdm_start": 5 / 60,
    "sdm_full": 25 / 60,
    "fusion_depth": 1,
    "fusion_dropout": 0.1,
    "dropout": 0.1,
    "modality_dropout": 0.3,
    "batch": 32,  # of 8 identities
    "per_identity": 4,
    "norm_weight": 0.01,
}

# Searched in every trial's evaluation over its cached features, without retraining. A mixture of 1 would throw the
# fused feature away; the paper of re-ranking has k1 = 20, k2 = 6, lambda = 0.3, and galleries with few pictures of
# each person want a smaller k1.
POSTHOC: dict[str, Any] = {
    "mix": (0.0, 0.25, 0.5, 0.75),
    "text_weight": (0.5, 1.0, 2.0),
    "expand_k": (),
    "rerank_k1": (10, 20),
    "rerank_k2": (1, 6),
    "rerank_lambda": (0.3, 0.6, 0.8),
}

BLOCKS = {"ViT-B-16": 12, "ViT-B-32": 12, "ViT-tiny": 3, "ViT-tiny-77": 3}


def space(trial: optuna.Trial) -> dict[str, Any]:
    """What is worth searching. A name held in the spec's `fixed` keeps that value here."""
    tower = trial.suggest_categorical("tower", ["ViT-B-16", "ViT-B-32"])
    weights = trial.suggest_categorical("weights", ["openai"])
    pretrained = weights is not None
    # What is new on a pretrained tower is published at 5e-5; random towers learn nothing that slowly.
    lr = trial.suggest_float("lr", *((1e-5, 1e-3) if pretrained else (3e-4, 5e-3)), log=True)
    return {
        "tower": tower,
        "weights": weights,
        "lr": lr,
        # CLIP forgets what it knows when it moves as fast as the rest; a random tower must
        "tower_lr": lr * (trial.suggest_float("tower_lr_ratio", 0.01, 1.0, log=True) if pretrained else 1.0),
        # published: 3e-3; below 3e-4 it lags behind the features, above 1e-2 it drags them
        "classifier_lr": trial.suggest_float("classifier_lr", 3e-4, 1e-2, log=True),
        "weight_decay": trial.suggest_float("weight_decay", 1e-5, 1e-1, log=True),
        "freeze_text": trial.suggest_categorical("freeze_text", [False, True]) if pretrained else False,
        **_lora(trial, tower),
        **_alignment(trial),
        "fusion_depth": trial.suggest_int("fusion_depth", 1, 3),  # five tokens at most: deeper has nothing to do
        "fusion_dropout": trial.suggest_float("fusion_dropout", 0.0, 0.3),
        "dropout": trial.suggest_float("dropout", 0.0, 0.5),  # of the classifier's input alone
        # at 0 the fusion never sees a missing modality but vis; above 0.6 it hardly sees two together
        "modality_dropout": trial.suggest_float("modality_dropout", 0.0, 0.6),
        "norm_weight": trial.suggest_float("norm_weight", 1e-4, 1e-1, log=True),  # above, it outweighs the rest
        **_batch(trial),
    }


def _lora(trial: optuna.Trial, tower: str) -> dict[str, Any]:
    """Rank and alpha, for all blocks or block by block. The update is scaled by alpha / rank: published 1/4, and
    LoRA's own 1 to 2 lies within. Above rank 32 a modality has a tower of its own, almost."""
    if trial.suggest_categorical("lora_sharing", ["shared", "per_block"]) == "shared":
        return {
            "lora_rank": trial.suggest_categorical("lora_rank", [2, 4, 8, 16, 32]),
            "lora_alpha": trial.suggest_float("lora_alpha", 0.5, 64.0, log=True),
        }
    blocks = range(BLOCKS[tower])
    return {  # 0 leaves a block to all modalities alike: early blocks may need an update that late ones don't
        "lora_rank": tuple(trial.suggest_categorical(f"lora_rank_{i}", [0, 2, 4, 8, 16]) for i in blocks),
        "lora_alpha": tuple(trial.suggest_float(f"lora_alpha_{i}", 0.5, 64.0, log=True) for i in blocks),
    }


def _alignment(trial: optuna.Trial) -> dict[str, Any]:
    """SDM: its kind, temperature, weight, and when it sets in."""
    kind = trial.suggest_categorical("sdm_kind", ["soft_targets", "kl"])
    # soft targets are clamped to 0.15..0.5; IRRA's KL is published at 0.02, and flat above 0.2
    low, high = (0.15, 0.5) if kind == "soft_targets" else (0.01, 0.2)
    return {
        "sdm_kind": kind,
        "temperature": trial.suggest_float("temperature", low, high, log=True),
        "sdm_weight": trial.suggest_float("sdm_weight", 0.1, 4.0, log=True),
        "sdm_ramp": "share",
        # shares of the training, so that short runs get there; later than 0.8 the full weight has no time to act
        "sdm_start": trial.suggest_float("sdm_start", 0.0, 0.25),
        "sdm_full": trial.suggest_float("sdm_full", 0.3, 0.8),
    }


def _batch(trial: optuna.Trial) -> dict[str, Any]:
    """P x K: fewer than four identities make SDM's negatives rare, fewer than two rows its positives. 128 rows are
    up to 512 images a step already."""
    return {
        "batch": trial.suggest_categorical("batch", [32, 64, 128]),  # P K
        "per_identity": trial.suggest_categorical("per_identity", [2, 4, 8]),  # K
    }
