"""iKUN: does this window of a track fit this expression? (arXiv 2312.16245)

Shapes: B windows, T frames of a window, C channels, H x W pixels, L text tokens; W windows and E expressions
that P pairs point to, N = W * T crops; places of a crop and of a frame are tokens; D feature width; G numbers
of geometry (centre x, y, width, height of the box, and their change over the window, relative to the frame).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812  its usual name
from einops import rearrange, reduce
from torch import Tensor, nn

from ..layers import kum
from ..layers.kum import TextFirst
from ..layers.lora import add_lora
from ..towers import clip
from ..towers.clip import MEAN, STD, ClipTowers
from ..training.package import load_package_weights
from ..training.parameters import trained, trained_but
from .config import Config

GEOMETRY = 8


class Output(NamedTuple):
    """Scores and features of pairs. In eval mode both features have length 1."""

    logit_B: Tensor  # cosine, -1..1
    visual_BD: Tensor
    textual_BD: Tensor


class Text(NamedTuple):
    """Encoded expressions, E of them."""

    states_EKD: Tensor  # of the first tokens, projected
    feature_ED: Tensor  # the end token's, after text_fc


@dataclass(frozen=True, slots=True)
class Views:
    """Encoded crops and the frames they were cut from."""

    crop_NLC: Tensor
    frame_NMC: Tensor  # M places of the crop's frame; one row a crop


class Ikun(nn.Module):
    """Referring tracker head on CLIP towers, of a Config.

    `crop_px` and `frame_px` fix the number of learnt positions. `geometry` adds a token for where the box is
    and how it moves, since a crop alone can't know that it is on the left. `eval_normalises_text` is a quirk
    of the published code, needed for its checkpoints only: in eval it conditions on the text feature at
    length 1, in training on the feature as it comes.
    """

    def __init__(self, clip: ClipTowers, config: Config) -> None:
        super().__init__()
        channels, state_dim, feature_dim = clip.visual_dim, clip.sizes.embed_dim, config.feature_dim
        self.clip, self.config = clip, config
        crop_places, frame_places = clip.places(config.crop_px), clip.places(config.frame_px)
        self.pos_emb_local = nn.Parameter(torch.randn(crop_places) * crop_places**-0.5)
        self.pos_emb_global = nn.Parameter(torch.randn(frame_places) * frame_places**-0.5)
        self.fusion = nn.MultiheadAttention(channels, config.heads, batch_first=True)
        self.kum = kum.make(
            config.kum_mode,
            channels=channels,
            state_dim=state_dim,
            feature_dim=feature_dim,
            heads=config.heads,
            dropout=config.dropout,
        )
        self.img_fc = nn.Linear(channels, feature_dim)
        self.text_fc = nn.Sequential(nn.Linear(state_dim, feature_dim), nn.ReLU(), nn.Linear(feature_dim, feature_dim))
        self.geometry = (
            nn.Sequential(nn.Linear(GEOMETRY, channels), nn.ReLU(), nn.Linear(channels, channels))
            if config.geometry
            else None
        )
        self.register_buffer("pixel_mean", torch.tensor(MEAN).view(3, 1, 1) * 255, persistent=False)
        self.register_buffer("pixel_std", torch.tensor(STD).view(3, 1, 1) * 255, persistent=False)

    def forward(
        self,
        local_BTCHW: Tensor,
        global_BTCHW: Tensor,
        tokens_BL: Tensor,
        geometry_BTG: Tensor | None = None,
        *,
        guided: bool = True,
    ) -> Output:
        """One expression a window; images normalised as CLIP's, or as bytes. `guided` False ignores the text
        in the visual feature, as the published training does before its `tg_epoch`."""
        count, frames = local_BTCHW.shape[:2]
        text = self.encode_text(tokens_BL)
        geometry_NG = None if geometry_BTG is None else geometry_BTG.flatten(0, 1)
        views = self.encode_views(local_BTCHW.flatten(0, 1), global_BTCHW.flatten(0, 1), geometry_NG)
        pair_B = torch.arange(count, device=tokens_BL.device)
        return self.score_pairs(views, text, pair_B, pair_B, frames=frames, guided=guided)

    def encode_views(self, crop_NCHW: Tensor, frame_NCHW: Tensor, geometry_NG: Tensor | None = None) -> Views:
        """Encodes N crops, each with the frame it was cut from; images as bytes, or normalised as CLIP's."""
        return Views(self.encode_crops(crop_NCHW, geometry_NG), self.encode_frames(frame_NCHW))

    def encode_text(self, tokens_EL: Tensor) -> Text:
        """Encodes E expressions of CLIP's token ids."""
        states_EKD, end_ED = self.clip.encode_text(tokens_EL, self.config.text_tokens)
        return Text(states_EKD, self.text_fc(end_ED))

    def encode_crops(self, image_NCHW: Tensor, geometry_NG: Tensor | None = None) -> Tensor:
        """Tokens of crops, N x L x C; the geometry's comes last."""
        token_NLC = self.clip.encode_image(self._pixels(image_NCHW)) + self.pos_emb_local[:, None]
        if self.geometry is None:
            return token_NLC
        if geometry_NG is None:
            raise ValueError("this model was built with geometry: geometry_BTG must be given")
        return torch.cat([token_NLC, self.geometry(geometry_NG)[:, None].to(token_NLC.dtype)], 1)

    def encode_frames(self, image_NCHW: Tensor) -> Tensor:
        """Tokens of whole frames, N x M x C."""
        return self.clip.encode_image(self._pixels(image_NCHW)) + self.pos_emb_global[:, None]

    def score_pairs(
        self, views: Views, text: Text, window_P: Tensor, expression_P: Tensor, *, frames: int, guided: bool = True
    ) -> Output:
        """Scores pairs of windows and expressions; crops of a window follow each other in `views`.

        What does not depend on the text is computed once a window.
        """
        module = self.kum if guided else None
        text_P = self.condition(text)[expression_P] if module is not None else None
        if module is None:
            visual_ND = self.pool(self.fuse(views.crop_NLC, views.frame_NMC))
            visual_WTD = rearrange(visual_ND, "(w t) d -> w t d", t=frames)
            visual_PTD = visual_WTD[window_P]
        else:
            assert text_P is not None
            crop_Q = (window_P[:, None] * frames + torch.arange(frames, device=window_P.device)).flatten()
            text_Q = text_P.repeat_interleave(frames, 0)
            if isinstance(module, TextFirst):
                token_QLC = self._text_first(module, views, crop_Q, text_Q)
            else:
                token_QLC = module.after(self.fuse(views.crop_NLC, views.frame_NMC)[crop_Q], text_Q)
            visual_PTD = rearrange(self.pool(token_QLC), "(p t) d -> p t d", t=frames)
        visual_PD = self.img_fc(visual_PTD.mean(1))
        textual_PD = text.feature_ED[expression_P]
        if not self.training:
            visual_PD, textual_PD = F.normalize(visual_PD, dim=-1), F.normalize(textual_PD, dim=-1)
        return Output(F.cosine_similarity(visual_PD, textual_PD), visual_PD, textual_PD)

    def fuse(self, crop_NLC: Tensor, frame_NMC: Tensor) -> Tensor:
        """Attention from crops to their frames, plus the crop itself, N x L x C."""
        return self.fusion(crop_NLC, frame_NMC, frame_NMC, need_weights=False)[0] + crop_NLC

    def pool(self, token_NLC: Tensor) -> Tensor:
        """Mean over a crop's tokens, N x C."""
        return reduce(token_NLC, "n l c -> n c", "mean")

    def condition(self, text: Text) -> Tensor:
        """The part of encoded expressions that the KUM reads: E x K x D token states, or E x D features."""
        if self.kum is not None and self.kum.uses_states:
            return text.states_EKD
        as_published = self.config.eval_normalises_text and not self.training
        return F.normalize(text.feature_ED, dim=-1) if as_published else text.feature_ED

    def _text_first(self, module: TextFirst, views: Views, crop_Q: Tensor, text_QD: Tensor) -> Tensor:
        crop_QLC, frame_QMC = views.crop_NLC[crop_Q], views.frame_NMC[crop_Q]
        query_QLC, key_QMC = module.modulate(crop_QLC, text_QD), module.modulate(frame_QMC, text_QD)
        return self.fusion(query_QLC, key_QMC, frame_QMC, need_weights=False)[0] + crop_QLC

    def _pixels(self, image_NCHW: Tensor) -> Tensor:
        if image_NCHW.dtype != torch.uint8:
            return image_NCHW
        scaled_NCHW = (image_NCHW.to(self.pixel_mean.dtype) - self.pixel_mean) / self.pixel_std  # type: ignore[arg-type,operator]
        return scaled_NCHW.contiguous(memory_format=torch.channels_last)

    def param_groups(self) -> list[dict[str, Any]]:
        """Groups for the optimiser: the towers with their own learning rate, the rest."""
        towers = trained(self.clip)
        c = self.config
        tower_lr = c.lr if c.tower_lr is None else c.tower_lr
        return [{"params": towers, "lr": tower_lr}, {"params": trained_but(self, towers)}]


def channels_first(image: Tensor) -> Tensor:
    """... x H x W x 3 bytes as N x 3 x H x W, leading axes flattened; no copy."""
    return image.flatten(0, -4).movedim(-1, 1)


def build_model(config: Config) -> Ikun:
    """The model of a Config, with its weights. Raises InputError when they don't fit."""
    towers = clip.build(config.tower, config.weights)
    model = Ikun(towers, config)
    if config.init is not None:
        load_package_weights(model, config.init)
    if config.lora_rank:
        add_lora([towers.visual.transformer], config.lora_rank, config.lora_alpha)  # type: ignore[list-item]
    if config.freeze_text:
        towers.transformer.requires_grad_(False)
        towers.ln_final.requires_grad_(False)
        towers.text_projection.requires_grad_(False)
    return model
