"""Sizes of the towers, by the names that Configs give them. Without torch: a Config is checked where none is loaded."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ...datasets.problems import InputError

VOCABULARY = 49408  # of CLIP's BPE; the largest id ends a text
_CUSTOM_RESNET = re.compile(r"RN-(\d+)-(\d+)-(\d+)-(\d+)-w(\d+)-e(\d+)-t(\d+)x(\d+)h(\d+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipSizes:
    """Sizes of CLIP's two towers; `layers` of four numbers is a ResNet, of one a ViT, none the small convolutions."""

    embed_dim: int
    layers: tuple[int, ...]
    width: int
    patch: int = 32
    image_px: int = 224
    head_width: int = 64
    text_width: int = 512
    text_heads: int = 8
    text_layers: int = 12
    context: int = 77
    vocabulary: int = VOCABULARY  # a smaller one folds CLIP's ids into itself

    @property
    def is_vit(self) -> bool:
        """Whether the visual tower is a transformer."""
        return len(self.layers) == 1

    @property
    def stride(self) -> int:
        """Pixels from one place of the map to the next."""
        return 32 if len(self.layers) == 4 else self.patch


CLIP: dict[str, ClipSizes] = {
    "RN50": ClipSizes(embed_dim=1024, layers=(3, 4, 6, 3), width=64),
    "ViT-B-32": ClipSizes(embed_dim=512, layers=(12,), width=768),
    "ViT-B-16": ClipSizes(embed_dim=512, layers=(12,), width=768, patch=16),
    # For CPUs: 0.2 and 0.4 million trained parameters; a prime vocabulary folds with few collisions.
    "conv-tiny": ClipSizes(
        embed_dim=64,
        layers=(),
        width=96,
        patch=16,
        image_px=64,
        text_width=64,
        text_heads=2,
        text_layers=1,
        context=20,
        vocabulary=2039,
    ),
    "ViT-tiny": ClipSizes(
        embed_dim=64,
        layers=(3,),
        width=96,
        patch=16,
        image_px=64,
        head_width=32,
        text_width=64,
        text_heads=2,
        text_layers=1,
        context=20,
        vocabulary=2039,
    ),
    # the same for captions, which are longer than expressions
    "ViT-tiny-77": ClipSizes(
        embed_dim=64,
        layers=(3,),
        width=96,
        patch=16,
        image_px=64,
        head_width=32,
        text_width=64,
        text_heads=2,
        text_layers=1,
        vocabulary=2039,
    ),
}


def clip_sizes(name: str) -> ClipSizes:
    """The sizes of CLIP towers by their name, or by numbers: `RN-1-1-1-1-w64-e1024-t128x2h2` is a ResNet of four
    stages of one block, width 64, embedding 1024, and a text tower of width 128, 2 layers and 2 heads.

    Raises InputError with the choices.
    """
    if name in CLIP:
        return CLIP[name]
    numbers = _CUSTOM_RESNET.fullmatch(name)
    if numbers is None:
        raise InputError(
            f"tower must be one of {', '.join(CLIP)}, or RN-a-b-c-d-wWIDTH-eEMBED-tWIDTHxLAYERShHEADS, got {name!r}"
        )
    *layers, width, embed, text_width, text_layers, text_heads = map(int, numbers.groups())
    return ClipSizes(
        embed_dim=embed,
        layers=tuple(layers),
        width=width,
        text_width=text_width,
        text_layers=text_layers,
        text_heads=text_heads,
    )


def clip_name(sizes: ClipSizes) -> str:
    """The name that gives these sizes. Raises InputError for a text tower of another context or vocabulary."""
    for name, known in CLIP.items():
        if known == sizes:
            return name
    s = sizes
    name = f"RN-{'-'.join(map(str, s.layers))}-w{s.width}-e{s.embed_dim}-t{s.text_width}x{s.text_layers}h{s.text_heads}"
    if clip_sizes(name) != sizes:
        raise InputError(
            f"towers must have a context of 77 and a vocabulary of {VOCABULARY}, got {s.context} and {s.vocabulary}"
        )
    return name


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSizes:
    """Sizes of a Hugging Face image tower; one without layers is four strided convolutions."""

    width: int
    layers: int
    heads: int = 1
    patch: int = 16


IMAGE: dict[str, ImageSizes] = {
    "vit-base": ImageSizes(width=768, layers=12, heads=12),
    # for CPUs: 0.4 million parameters each
    "vit-tiny": ImageSizes(width=96, layers=3, heads=3, patch=8),
    "conv-tiny": ImageSizes(width=96, layers=0),
}


def image_sizes(name: str) -> ImageSizes:
    """The sizes of an image tower. Raises InputError with the choices."""
    if name not in IMAGE:
        raise InputError(f"tower must be one of {', '.join(IMAGE)}, got {name!r}")
    return IMAGE[name]


@dataclass(frozen=True, slots=True, kw_only=True)
class TextSizes:
    """Sizes of a Hugging Face text tower."""

    width: int
    layers: int
    heads: int
    vocabulary: int = 30522
    context: int = 512
    dropout: float = 0.1
    mean: bool = False  # the whole is the mean of the tokens; else the state of the first


TEXT: dict[str, TextSizes] = {
    "bert-base": TextSizes(width=768, layers=12, heads=12),
    # 0.3 million parameters; folded by a prime, with few collisions. Without pretraining a mean learns sooner.
    "bert-tiny": TextSizes(width=96, layers=1, heads=3, vocabulary=2040, context=128, dropout=0.0, mean=True),
}


def text_sizes(name: str) -> TextSizes:
    """The sizes of a text tower. Raises InputError with the choices."""
    if name not in TEXT:
        raise InputError(f"text_tower must be one of {', '.join(TEXT)}, got {name!r}")
    return TEXT[name]


def pixel_problems(pixels: Mapping[str, int], patch: int, tower: str) -> list[str]:
    """What is wrong with sizes of pictures, by the names of their fields: a tower cuts them into whole patches."""
    return [
        f"{name} must be a multiple of {patch} with {tower}, got {px}"
        for name, px in pixels.items()
        if px < patch or px % patch
    ]
