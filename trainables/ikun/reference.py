"""Published iKUN checkpoints: their names, sizes and quirks."""

from __future__ import annotations

from torch import Tensor

from ...datasets.problems import InputError
from ..layers.kum import MODES, REFERENCE_NAMES, KumMode
from ..towers.clip import ClipTowers, sizes_from_state
from .model import Ikun

_RENAMED = {
    "fusion_local_global.": "fusion.",
    "fusion_visual_textual.": "kum.attention.",
    "fusion_fc.": "kum.fc.",
    "fusion_conv1.": "kum.conv1.",
    "fusion_conv2.": "kum.conv2.",
}
# Parts that the published model builds and never uses.
_UNUSED = ("clip.visual.attnpool.", "clip.logit_scale", "fusion_ffn.")


def kum_mode(name: str | None) -> KumMode | None:
    """Our name of a mode, given ours or the published one. Raises InputError with the choices."""
    if name is None or name in MODES:
        return name
    if name not in REFERENCE_NAMES:
        raise InputError(f"kum_mode must be one of {', '.join([*REFERENCE_NAMES, *MODES])} or none, got {name!r}")
    return REFERENCE_NAMES[name]


def guess_mode(state: dict[str, Tensor]) -> KumMode | None:
    """The mode whose parts a published state dict has. The two of convolutions have the same parts."""
    names = {name.removeprefix("module.").partition(".")[0] for name in state}
    if "fusion_visual_textual" in names:
        return "cascade"
    if "fusion_conv1" in names:
        raise InputError(
            "cross correlation and text-first modulation have the same parameters: say which --kum-mode it is"
        )
    return None


def from_reference(state: dict[str, Tensor], kum_mode: str | None, text_heads: int | None = None) -> Ikun:
    """The published model with these weights: sizes from the shapes, its eval behaviour, in eval mode.

    Takes entries with or without DataParallel's `module.`; `kum_mode` in its words or ours. Text heads are
    width / 64 unless given. Raises InputError when an entry is missing, unknown or of another size.
    """
    mode = _mode(kum_mode)
    state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    needed = ("pos_emb_local", "pos_emb_global", "text_fc.0.weight", "clip.visual.conv1.weight", "clip.text_projection")
    missing = [name for name in needed if name not in state]
    if missing:
        raise InputError(f"no iKUN state dict: {', '.join(missing)} missing")
    clip = {k.removeprefix("clip."): v for k, v in state.items() if k.startswith("clip.")}
    crop_px, frame_px = (32 * round(len(state[f"pos_emb_{view}"]) ** 0.5) for view in ("local", "global"))
    model = Ikun(
        ClipTowers(sizes_from_state(clip, text_heads)),
        kum_mode=mode,
        crop_px=crop_px,
        frame_px=frame_px,
        feature_dim=len(state["img_fc.bias"]),
        eval_normalises_text=True,
    )
    unused = (*_UNUSED, "fusion_conv2.") if mode == "text_first" else _UNUSED
    try:
        model.load_state_dict({_rename(k): v for k, v in state.items() if not k.startswith(unused)})
    except RuntimeError as error:
        raise InputError(f"the state dict does not fit kum_mode {kum_mode!r}: {error}") from None
    return model.eval()


_mode = kum_mode


def _rename(name: str) -> str:
    for old, new in _RENAMED.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name
