"""Scores every window of a video against every expression, encoding each image and each text once.

The published code encodes the same crop and the same frame anew for each of some fifty expressions. Without
dropout and with batch norms frozen, what depends on the text is far smaller than a tower:

- cascade: of `mean_l vis * (W o)` the sum over the text can be taken last. With `A` the attention weights,
  `mean_l vis_l * sum_k A_lk u_k` is `sum_k u_k * (A^T vis)_k / L`, where `u_k = W v_k` depends on the text only.
- cross correlation: `conv2` and its batch norm are linear, so the mean over places comes first.
- text first: keys are modulated once a (frame, expression), not once a crop; attention weights are averaged over
  the crop's places before they meet the values.

Shapes: F frames, N crops, E expressions, L places of a crop, M of a frame, H heads, K text tokens, C channels,
D feature width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812  its usual name
from einops import rearrange
from torch import Tensor

from ..layers.kum import Cascade, CrossCorrelation, TextFirst, project
from .model import Ikun

_CHUNK_BYTES = 256 << 20  # of the largest intermediate


class Scorer:
    """A model in eval mode with the expressions of one video, encoded."""

    def __init__(self, model: Ikun, tokens_EL: Tensor) -> None:
        if model.training:
            raise ValueError("the model must be in eval mode: with dropout and batch statistics nothing can be shared")
        self.model = model
        with torch.no_grad():
            text = model.encode_text(tokens_EL)
            self.condition = model.condition(text)
            self.textual_ED = F.normalize(text.feature_ED, dim=-1)

    @torch.no_grad()
    def crops(
        self, frame_FCHW: Tensor, crop_NCHW: Tensor, frame_of_N: Tensor, geometry_NG: Tensor | None = None
    ) -> Tensor:
        """What each crop gives with each expression, N x E x D, before windows are averaged.

        `frame_of_N` says which frame a crop was cut from.
        """
        model = self.model
        frame_FMC = model.encode_frames(frame_FCHW)
        crop_NLC = model.encode_crops(crop_NCHW, geometry_NG)
        if isinstance(model.kum, TextFirst):
            pooled_NEC = self._text_first(model.kum, frame_FMC, crop_NLC, frame_of_N)
        else:
            fused_NLC = self._fuse(frame_FMC, crop_NLC, frame_of_N)
            if isinstance(model.kum, Cascade):
                pooled_NEC = self._cascade(model.kum, fused_NLC)
            elif isinstance(model.kum, CrossCorrelation):
                pooled_NEC = self._cross_correlation(model.kum, fused_NLC)
            else:
                pooled_NEC = fused_NLC.mean(1, keepdim=True).expand(-1, len(self.textual_ED), -1)
        return model.img_fc(pooled_NEC)

    @torch.no_grad()
    def windows(self, crop_NED: Tensor, looked_WT: Tensor) -> Tensor:
        """Scores of windows, W x E in -1..1, from the crops that each looks at."""
        visual_WED = F.normalize(crop_NED[looked_WT].mean(1), dim=-1)
        return torch.einsum("wed,ed->we", visual_WED, self.textual_ED)

    def _fuse(self, frame_FMC: Tensor, crop_NLC: Tensor, frame_of_N: Tensor) -> Tensor:
        """`Ikun.fuse` with keys and values projected once a frame."""
        fusion = self.model.fusion
        heads = fusion.num_heads
        query_NHLc = _heads(project(fusion, 0, crop_NLC), heads)
        key_FHMc = _heads(project(fusion, 1, frame_FMC), heads)
        value_FHMc = _heads(project(fusion, 2, frame_FMC), heads)
        out_NHLc = torch.empty_like(query_NHLc)
        for frame in range(len(frame_FMC)):  # crops of one frame share keys and values: no copies of them
            here = frame_of_N == frame
            query = query_NHLc[here].transpose(0, 1).flatten(1, 2)[None]  # 1 x H x (n L) x c
            mixed = F.scaled_dot_product_attention(query, key_FHMc[frame][None], value_FHMc[frame][None])
            out_NHLc[here] = rearrange(mixed[0], "h (n l) c -> n h l c", l=crop_NLC.shape[1])
        return fusion.out_proj(out_NHLc.transpose(1, 2).flatten(2)) + crop_NLC

    def _cascade(self, kum: Cascade, fused_NLC: Tensor) -> Tensor:
        attention = kum.attention
        heads, width = attention.num_heads, attention.head_dim
        query_NHLc = _heads(project(attention, 0, fused_NLC), heads) * width**-0.5
        text_EKC = kum.fc(self.condition)
        key_EHKc = _heads(project(attention, 1, text_EKC), heads)
        value_EHKc = _heads(project(attention, 2, text_EKC), heads)
        out_HcC = rearrange(attention.out_proj.weight, "d (h c) -> h c d", h=heads)
        given_EHKC = torch.einsum("ehkc,hcd->ehkd", value_EHKc, out_HcC)
        mean_NC = fused_NLC.mean(1)
        places = fused_NLC.shape[1]
        rest_NC = mean_NC * attention.out_proj.bias
        pooled = fused_NLC.new_empty(len(fused_NLC), len(text_EKC), fused_NLC.shape[2])
        tokens = key_EHKc.shape[2]
        for index in range(len(fused_NLC)):
            weight_EHLK = torch.einsum("hlc,ehkc->ehlk", query_NHLc[index], key_EHKc).softmax(-1)
            seen_XC = weight_EHLK.transpose(2, 3).reshape(-1, places) @ fused_NLC[index]  # X = E * H * K
            seen_EXC = seen_XC.view(len(text_EKC), heads * tokens, -1)
            pooled[index] = (seen_EXC * given_EHKC.flatten(1, 2)).sum(1) / places + rest_NC[index]
        return pooled

    def _cross_correlation(self, kum: CrossCorrelation, fused_NLC: Tensor) -> Tensor:
        mean_NC = fused_NLC.mean(1)
        gate_EC = kum.gate(self.condition)[:, 0]
        mixed_NEC = mean_NC[:, None] * (1 + gate_EC)
        return rearrange(kum.conv2(mixed_NEC.flatten(0, 1)[..., None]), "(n e) c 1 -> n e c", n=len(mixed_NEC))

    def _text_first(self, kum: TextFirst, frame_FMC: Tensor, crop_NLC: Tensor, frame_of_N: Tensor) -> Tensor:
        fusion = self.model.fusion
        heads, width = fusion.num_heads, fusion.head_dim
        gate_EC = kum.gate(self.condition)[:, 0]
        value_FHMc = _heads(project(fusion, 2, frame_FMC), heads)
        pooled = crop_NLC.new_empty(len(crop_NLC), len(gate_EC), crop_NLC.shape[2])
        for frame in range(len(frame_FMC)):
            here = torch.nonzero(frame_of_N == frame)[:, 0]
            if not len(here):
                continue
            crop_nLC = crop_NLC[here]
            places, frame_places = crop_nLC[..., 0].numel(), frame_FMC.shape[1]
            floats = (places + frame_places) * crop_nLC.shape[2] + places * heads * frame_places  # an expression
            step = max(1, _CHUNK_BYTES // (4 * floats))
            for first in range(0, len(gate_EC), step):
                gate_eC = gate_EC[first : first + step]
                query = _heads(project(fusion, 0, crop_nLC[:, None] * gate_eC[:, None]), heads) * width**-0.5
                key = _heads(project(fusion, 1, frame_FMC[frame] * gate_eC[:, None]), heads)
                weight_neHM = torch.einsum("nehlc,ehmc->nehlm", query, key).softmax(-1).mean(3)
                seen_neHc = torch.einsum("nehm,hmc->nehc", weight_neHM, value_FHMc[frame])
                pooled[here, first : first + step] = fusion.out_proj(seen_neHc.flatten(2)) + crop_nLC.mean(1)[:, None]
        return pooled


def _heads(token: Tensor, heads: int) -> Tensor:
    """... x L x C to ... x H x L x c."""
    return rearrange(token, "... l (h c) -> ... h l c", h=heads)
