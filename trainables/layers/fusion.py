"""Attention-gated fusion of a picture and a text into one feature of the pair.

Each attends to the other, a gate weighs the two, a linear layer makes the pair's feature. Pooled, either side is one
token and attention over it is a plain linear map, since its only weight is 1; with token-level attention pictures
offer their patches and texts their words.

Shapes: P pairs, L patches, T words, D width, O width of the outcome; masks are true where there is something.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812  its usual name
from torch import Tensor, nn


class AttentionGatedFusion(nn.Module):
    """One feature a pair, of length `scale`, which is learned."""

    def __init__(self, width: int, out: int, heads: int = 4, dropout: float = 0.1) -> None:
        super().__init__()
        self.image_attends = nn.MultiheadAttention(width, heads, dropout=dropout, batch_first=True)
        self.text_attends = nn.MultiheadAttention(width, heads, dropout=dropout, batch_first=True)
        self.norm_image, self.norm_text = nn.LayerNorm(width), nn.LayerNorm(width)
        self.gate = nn.Sequential(nn.Linear(2 * width, width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, 2))
        self.dropout = nn.Dropout(dropout)
        self.out, self.norm_out = nn.Linear(width, out), nn.LayerNorm(out)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(
        self,
        image_PD: Tensor,
        text_PD: Tensor,
        patch_PLD: Tensor | None = None,
        word_PTD: Tensor | None = None,
        word_mask_PT: Tensor | None = None,
    ) -> Tensor:
        """P x O. Without patches and words the two features attend to each other."""
        patch_PLD = image_PD[:, None] if patch_PLD is None else patch_PLD
        no_words = word_PTD is None
        word_PTD = text_PD[:, None] if word_PTD is None else word_PTD
        ignored_PT = None if no_words or word_mask_PT is None else ~word_mask_PT
        from_text_P1D, _ = self.image_attends(
            image_PD[:, None], word_PTD, word_PTD, key_padding_mask=ignored_PT, need_weights=False
        )
        from_image_P1D, _ = self.text_attends(text_PD[:, None], patch_PLD, patch_PLD, need_weights=False)
        image_PD = self.norm_image(image_PD + from_text_P1D[:, 0])
        text_PD = self.norm_text(text_PD + from_image_P1D[:, 0])
        share_P2 = self.gate(torch.cat([image_PD, text_PD], -1)).softmax(-1)
        mixed_PD = share_P2[:, :1] * image_PD + share_P2[:, 1:] * text_PD
        return self.scale * F.normalize(self.norm_out(self.out(self.dropout(mixed_PD))), dim=-1)
