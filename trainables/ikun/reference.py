"""Published iKUN checkpoints: their names, sizes and quirks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ...datasets.problems import InputError
from ..choices import KumMode
from ..coercion import make_config
from ..layers.kum import MODES
from ..towers.clip import ClipTowers, read_weights, sizes_from_state
from ..towers.names import SHOWN, listed, unwrapped
from ..towers.sizes import ClipSizes, clip_name
from ..training.package import Package
from .config import Config
from .model import Ikun

REFERENCE_NAMES: dict[str, KumMode] = {
    "cascade attention": "cascade",
    "cross correlation": "cross_correlation",
    "text-first modulation": "text_first",
}
_RENAMED = {
    "fusion_local_global.": "fusion.",
    "fusion_visual_textual.": "kum.attention.",
    "fusion_fc.": "kum.fc.",
    "fusion_conv1.": "kum.conv1.",
    "fusion_conv2.": "kum.conv2.",
}
_NEEDED = (
    *("pos_emb_local", "pos_emb_global", "text_fc.0.weight", "img_fc.bias", "clip.visual.conv1.weight"),
    *("clip.text_projection", "clip.token_embedding.weight", "clip.positional_embedding"),
)
# Parts that the published model builds and never uses.
_UNUSED = ("clip.visual.attnpool.", "clip.logit_scale", "fusion_ffn.")


def our_mode(name: str | None) -> KumMode | None:
    """Our name of a mode, given ours or the published one. Raises InputError with the choices."""
    if name is None or name in MODES:
        return name
    if name not in REFERENCE_NAMES:
        raise InputError(f"kum_mode must be one of {', '.join([*REFERENCE_NAMES, *MODES])} or null, got {name!r}")
    return REFERENCE_NAMES[name]


def guess_mode(state: dict[str, Tensor]) -> KumMode | None:
    """The mode whose parts a published state dict has. Raises InputError for the two of convolutions, which have the
    same parts."""
    names = {name.partition(".")[0] for name in unwrapped(state, _NEEDED, "the state dict")}
    if "fusion_visual_textual" in names:
        return "cascade"
    if "fusion_conv1" in names:
        choices = f"{MODES[1]} or {MODES[2]}"
        raise InputError(f"kum_mode must be given, {choices}: these two have the same parameters")
    return None


def from_reference(state: dict[str, Tensor], kum_mode: str | None, text_heads: int | None = None) -> Ikun:
    """The published model with these weights: sizes from the shapes, its eval behaviour, in eval mode.

    Takes entries under whatever they were saved (`towers.names`); `kum_mode` in its words or ours. Text heads are
    width / 64 unless given. Raises InputError when an entry is missing, unknown or of another size.
    """
    mode = our_mode(kum_mode)
    state = unwrapped(state, _NEEDED, "the state dict")
    missing = [name for name in _NEEDED if name not in state]
    if missing:
        raise InputError(f"no iKUN state dict: missing {listed(missing)}; found {listed(state)}")
    clip = {k.removeprefix("clip."): v for k, v in state.items() if k.startswith("clip.")}
    sizes = sizes_from_state(clip, text_heads)
    unused = (*_UNUSED, "fusion_conv2.") if mode == "text_first" else _UNUSED
    given = {_rename(k): v for k, v in state.items() if not k.startswith(unused)}
    try:
        config = _config(state, sizes, mode)
        with torch.device("meta"):  # takes no memory, whatever the sizes
            wanted = Ikun(ClipTowers(sizes), config).state_dict()
    except (ValueError, TypeError, RuntimeError, AssertionError, ZeroDivisionError) as error:
        raise InputError(f"no iKUN state dict: its sizes make no model: {error}") from None
    _check_fit(wanted, given, kum_mode)
    model = Ikun(ClipTowers(sizes), config)
    model.load_state_dict(given)
    return model.eval()


def _config(state: Mapping[str, Tensor], sizes: ClipSizes, mode: KumMode | None) -> Config:
    """The Config of a published state dict. Its `tower` is left alone: the towers are made of the sizes, which may have
    no name."""
    crop_px, frame_px = (sizes.stride * round(len(state[f"pos_emb_{view}"]) ** 0.5) for view in ("local", "global"))
    return Config(
        weights=None,
        kum_mode=mode,
        crop_px=crop_px,
        frame_px=frame_px,
        feature_dim=len(state["img_fc.bias"]),
        eval_normalises_text=True,
    )


def _check_fit(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor], kum_mode: str | None) -> None:
    missing, unknown = (
        [name for name in one if name not in other] for one, other in ((wanted, given), (given, wanted))
    )
    problems = [f"missing {listed(missing)}; found {listed(unknown)}"] if missing or unknown else []
    problems += [
        f"{name} must be {tuple(tensor.shape)}, got {tuple(given[name].shape)}"
        for name, tensor in wanted.items()
        if name in given and given[name].shape != tensor.shape
    ]
    if problems:
        raise InputError(f"the state dict does not fit kum_mode {kum_mode!r}: {'; '.join(problems[:SHOWN])}")


def _rename(name: str) -> str:
    for old, new in _RENAMED.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportOptions:
    """What a published checkpoint may not say itself."""

    kum_mode: str | None = None  # in the published words or ours; null is guessed, where the weights tell
    text_heads: int | None = None  # of the text tower; null is its width / 64


def import_checkpoint(checkpoint: str, fields: Mapping[str, Any]) -> Package:
    """A published checkpoint, a file or s3:// object, as a package; `fields` are those of ImportOptions.

    Raises InputError when they or the checkpoint don't fit.
    """
    options = make_config(ImportOptions, fields)
    state = read_weights(checkpoint, _NEEDED)
    mode = options.kum_mode if options.kum_mode is not None else guess_mode(state)
    model = from_reference(state, mode, options.text_heads)
    return Package(
        trainable="ikun",
        config=asdict(replace(model.config, tower=clip_name(model.clip.sizes))),
        setting={"a": 0.0, "tau": 100.0, "threshold": 0.0},  # as published without calibration
        facts={"texts": ["car", "pedestrian"], "share": [0.5, 0.5]},  # without `a` the prior has no weight
        origin={"from": "published checkpoint"},
        weights=model.state_dict(),
    )
