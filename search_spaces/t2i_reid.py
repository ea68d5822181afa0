"""The search space of text-to-image re-identification, and why each bound is where it is."""

from __future__ import annotations

from typing import Any

import optuna

# The reference's training, in the same names.
DEFAULTS: dict[str, Any] = {
    "weights": "google/vit-base-patch16-224",
    "text_weights": "google-bert/bert-base-uncased",
    "lr": 1e-4,
    "tower_lr_ratio": 1.0,
    "weight_decay": 1e-3,
    "temperature": 0.1,
    "dropout": 0.2,
    "shared_dim": 512,
    "embed_dim": 256,
    "info_nce": 1.0,
    "cls": 1.0,
    "bio": 0.5,
    "cloth": 0.5,
    "cloth_adv": 0.1,
    "cloth_adv_kind": "away",
    "cloth_match": 1.0,
    "decouple": 0.1,
    "decouple_kind": "cosine",
    "decouple_on": "projections",
    "positives": "share",
    "match_text": "identity",
    "fusion": None,
    "grl_schedule": "seed",
    "grl_alpha": 1.0,
    "grl_share": 0.5625,  # 45 of 80 epochs
    "schedule_unit": "training",
    "per_identity": 0,
    "unmatched": 0.5,
    "hard_pool": 1,
}

# Searched in every trial's evaluation over its cached features, without retraining. The paper of re-ranking has
# k1 = 20, k2 = 6, lambda = 0.3; across modalities the plain distance deserves more, hence up to 0.9. A query expanded
# by more than 5 pictures takes in other people where a person has 3 to 5. Fused shares are in 0..1 as cosines are:
# above 1 the plain ranking has no say left.
POSTHOC: dict[str, Any] = {
    "rerank_k1": (10, 20),
    "rerank_k2": (1, 6),
    "rerank_lambda": (0.3, 0.6, 0.9),
    "expand_k": (2, 5),
    "expand_alpha": (0.0, 3.0),
    "fusion_weight": (0.05, 0.1, 0.3, 1.0),
}


def space(trial: optuna.Trial) -> dict[str, Any]:
    """What is worth searching. A name held in the spec's `fixed` keeps that value here."""
    weights = trial.suggest_categorical("weights", ["google/vit-base-patch16-224"])
    text_weights = trial.suggest_categorical("text_weights", ["google-bert/bert-base-uncased"])
    pretrained = weights is not None and text_weights is not None
    # Pretrained towers forget above 5e-4 and the reference's 1e-4 is in the middle; random ones learn nothing there.
    low, high = (1e-5, 5e-4) if pretrained else (3e-4, 5e-3)
    lr = trial.suggest_float("lr", low, high, log=True)
    return {
        "weights": weights,
        "text_weights": text_weights,
        "lr": lr,
        # heads are new and may move faster than pretrained towers; never slower
        "tower_lr": lr * (trial.suggest_float("tower_lr_ratio", 0.02, 1.0, log=True) if pretrained else 1.0),
        "weight_decay": trial.suggest_float("weight_decay", 1e-5, 1e-1, log=True),
        # CLIP ends at 0.01, the reference has 0.1; above 0.3 the softmax hardly tells rows apart
        "temperature": trial.suggest_float("temperature", 0.02, 0.3, log=True),
        "dropout": trial.suggest_float("dropout", 0.0, 0.5),
        "positives": trial.suggest_categorical("positives", ["share", "mask"]),
        "match_text": trial.suggest_categorical("match_text", ["identity", "caption"]),
        **_heads(trial),
        **_weights(trial),
        **_reversal(trial),
        **_fusion(trial),
        **_rows(trial),
    }


def _heads(trial: optuna.Trial) -> dict[str, Any]:
    """Widths: below 128 hundreds of people crowd, above the towers' 768 nothing is added."""
    return {
        "shared_dim": trial.suggest_categorical("shared_dim", [256, 512, 768]),
        "embed_dim": trial.suggest_categorical("embed_dim", [128, 256, 512]),
    }


def _weights(trial: optuna.Trial) -> dict[str, Any]:
    """Weights of the losses, with info_nce at 1: only their ratios count, Adam takes out the common scale."""
    return {
        "cls": trial.suggest_float("cls", 0.1, 3.0, log=True),  # its nats are those of thousands of people
        "bio": trial.suggest_float("bio", 0.05, 2.0, log=True),
        "cloth": trial.suggest_float("cloth", 0.05, 2.0, log=True),
        # above 3 it wins over info_nce: its nats have no lower bound in one kind, and an opponent in the other
        "cloth_adv": trial.suggest_float("cloth_adv", 0.01, 3.0, log=True),
        "cloth_adv_kind": trial.suggest_categorical("cloth_adv_kind", ["away", "reversal"]),
        "cloth_match": trial.suggest_float("cloth_match", 0.1, 3.0, log=True),
        # |cos| is at most 1 where the others are nats; centred HSIC is smaller by orders
        "decouple": trial.suggest_float("decouple", 0.01, 3.0, log=True),
        "decouple_kind": trial.suggest_categorical("decouple_kind", ["cosine", "hsic"]),
        "decouple_on": trial.suggest_categorical("decouple_on", ["projections", "features"]),
    }


def _reversal(trial: optuna.Trial) -> dict[str, Any]:
    """How the gradient reversal grows, in shares of the training: epochs would change their meaning with its length."""
    schedule = trial.suggest_categorical("grl_schedule", ["seed", "linear", "dann", "constant"])
    fields: dict[str, Any] = {
        "grl_schedule": schedule,
        "grl_alpha": trial.suggest_float("grl_alpha", 0.03, 3.0, log=True),  # above 3 the trunk follows nothing else
        "schedule_unit": "training",
        "cloth_adv_until": 0.2,  # 16 of the reference's 80 epochs
    }
    if schedule != "constant":  # which has no end
        fields["grl_until"] = trial.suggest_float("grl_share", 0.1, 1.0)
    else:
        fields["grl_until"] = 1.0
    return fields


def _fusion(trial: optuna.Trial) -> dict[str, Any]:
    """Fusion, and what depends on there being one."""
    kind = trial.suggest_categorical("fusion", [None, "pooled", "tokens"])
    if kind is None:
        return {"fusion": None}
    return {
        "fusion": kind,
        "fuse": trial.suggest_float("fuse", 0.1, 3.0, log=True),
        "fusion_heads": trial.suggest_categorical("fusion_heads", [2, 4, 8]),  # all divide each embed_dim
        "fusion_dropout": trial.suggest_float("fusion_dropout", 0.0, 0.3),
    }


def _rows(trial: optuna.Trial) -> dict[str, Any]:
    """What a batch is made of."""
    return {
        "per_identity": trial.suggest_categorical("per_identity", [0, 2, 4]),  # people have 2 to 5 pictures
        "unmatched": trial.suggest_float("unmatched", 0.0, 1.0),
        # of 32 random captions the most alike is nearly the own one: beyond, negatives become true
        "hard_pool": trial.suggest_categorical("hard_pool", [1, 4, 16, 32]),
    }
