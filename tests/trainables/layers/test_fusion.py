"""Attention-gated fusion against its formula, token by token."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812  its usual name
from refsweep.trainables.layers.fusion import AttentionGatedFusion

WIDTH, OUT = 8, 6


@pytest.fixture
def fusion() -> AttentionGatedFusion:
    torch.manual_seed(0)
    fusion = AttentionGatedFusion(WIDTH, OUT, heads=2, dropout=0.3).eval()
    for parameter in fusion.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return fusion


def features(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, WIDTH)


def gated(fusion: AttentionGatedFusion, image: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    """What comes after attention, row by row."""
    rows = []
    for i, t in zip(image, text, strict=True):
        share = fusion.gate(torch.cat([i, t])[None]).softmax(-1)[0]
        rows.append(F.normalize(fusion.norm_out(fusion.out(share[0] * i + share[1] * t)), dim=-1))
    return fusion.scale * torch.stack(rows)


def test_pooled_attention_is_a_linear_map_since_its_only_weight_is_one(fusion: AttentionGatedFusion):
    image, text = features(5), features(5)

    def alone(attention: torch.nn.MultiheadAttention, x: torch.Tensor) -> torch.Tensor:
        value = attention.in_proj_weight[2 * WIDTH :], attention.in_proj_bias[2 * WIDTH :]
        return attention.out_proj(F.linear(x, *value))

    expected = gated(
        fusion,
        fusion.norm_image(image + alone(fusion.image_attends, text)),
        fusion.norm_text(text + alone(fusion.text_attends, image)),
    )
    torch.testing.assert_close(fusion(image, text), expected)


def test_token_attention_weighs_tokens(fusion: AttentionGatedFusion):
    """Not repeated: attention over one token, whose weights are always 1."""
    image, text, patches, words = features(3), features(3), features(3, 4), features(3, 5)
    fused = fusion(image, text, patches, words, torch.ones(3, 5, dtype=torch.bool))
    for row in range(3):
        by_text, _ = fusion.image_attends(image[row][None], words[row], words[row])
        by_image, weights = fusion.text_attends(text[row][None], patches[row], patches[row])
        assert weights.std() > 1e-3
        expected = gated(
            fusion, fusion.norm_image(image[row] + by_text[0])[None], fusion.norm_text(text[row] + by_image[0])[None]
        )
        torch.testing.assert_close(fused[row], expected[0])


def test_words_that_are_not_there_count_for_nothing(fusion: AttentionGatedFusion):
    image, text, patches, words = features(2), features(2), features(2, 4), features(2, 5)
    there = torch.tensor([[1, 1, 0, 0, 0], [1, 1, 1, 1, 1]], dtype=torch.bool)
    other = words.clone()
    other[0, 2:] += 10
    torch.testing.assert_close(fusion(image, text, patches, words, there), fusion(image, text, patches, other, there))
    torch.testing.assert_close(
        fusion(image, text, patches, words, there)[:1],
        fusion(image[:1], text[:1], patches[:1], words[:1, :2], there[:1, :2]),
    )


def test_the_outcome_has_the_length_of_the_learned_scale(fusion: AttentionGatedFusion):
    fusion.scale.data.fill_(2.5)
    torch.testing.assert_close(fusion(features(4), features(4)).norm(dim=-1), torch.full((4,), 2.5))
