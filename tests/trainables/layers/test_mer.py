"""MER: a modality's update is the same alone and in a mixed batch, and folded into the weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from refsweep.trainables.layers.mer import Mer, Route, RoutedUpdate, per_block
from refsweep.trainables.mm_reid import Config, MmReid
from refsweep.trainables.mm_reid.config import CHANNELS
from refsweep.trainables.mm_reid.model import Tokenizers, adapted
from refsweep.trainables.towers import clip
from torch import Tensor

MODALITIES = len(CHANNELS)


def model(ranks: tuple[int, ...] = (4,), alphas: tuple[float, ...] = (1.0,)) -> MmReid:
    """A small model whose updates all do something."""
    torch.manual_seed(0)
    sizes = {"height_px": 48, "width_px": 32, "width": 32, "heads": 2}
    config = Config(tower="ViT-tiny", lora_rank=ranks, lora_alpha=alphas, **sizes)
    made = MmReid(clip.build("ViT-tiny"), 5, config).eval()
    for name, parameter in made.mer.named_parameters():
        if "up_" in name:
            parameter.data.normal_(std=0.3)
    return made


def images(count: int) -> Tensor:
    return torch.randint(256, (count, 48, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


MIXED = torch.tensor([2, 0, 3, 3, 1, 0, 2])


@torch.no_grad()
@pytest.mark.parametrize(("ranks", "alphas"), [((4,), (1.0,)), ((2, 0, 8), (1.0, 1.0, 16.0))])
def test_mixed_modalities_in_one_pass_equal_one_pass_per_modality(ranks: Any, alphas: Any):
    made, image = model(ranks, alphas), images(len(MIXED))
    together = made.encode_images(image, MIXED)
    for modality in range(MODALITIES):
        alone = made.encode_images(image[modality == MIXED], MIXED[modality == MIXED])
        torch.testing.assert_close(together[modality == MIXED], alone, atol=1e-5, rtol=1e-5)
    with torch.enable_grad():  # where matrices are handed out in another way
        torch.testing.assert_close(made.encode_images(image, MIXED), together, atol=1e-6, rtol=1e-6)
    swapped = made.encode_images(image, (MIXED + 1) % MODALITIES)
    assert (swapped - together).abs().max() > 0.01


@torch.no_grad()
def test_a_modality_folded_into_the_weights_gives_the_same():
    made = model((2, 0, 8), (1.0, 1.0, 16.0))
    visual: Any = made.clip.visual
    state = torch.randn(3, 7, 96)
    outputs = []
    for modality in range(MODALITIES):
        folded = made.mer.folded(visual.transformer, modality)(state)
        routed = made.mer(visual.transformer, state, torch.full((3,), modality))
        torch.testing.assert_close(folded, routed, atol=1e-5, rtol=1e-5)
        outputs.append(folded)
    assert (outputs[0] - outputs[1]).abs().max() > 0.01


@torch.no_grad()
def test_at_the_start_every_modality_is_clip_itself():
    towers = clip.build("ViT-tiny").eval()
    visual: Any = towers.visual
    mer = Mer(visual.transformer, MODALITIES, (4,), (1.0,))
    state = torch.randn(4, 7, 96)
    routed = mer(visual.transformer, state, torch.arange(4))
    torch.testing.assert_close(routed, visual.transformer(state), atol=1e-5, rtol=1e-5)


def test_an_update_is_alpha_over_rank_times_b_a_worked_out_by_hand():
    update = RoutedUpdate(2, 2, 1, rank=1, alpha=0.5)
    update.down_MQI.data = torch.tensor([[[1.0, 2.0]], [[0.0, 1.0]]])
    update.up_MQO.data = torch.tensor([[[3.0]], [[10.0]]])
    x = torch.tensor([[[1.0, 1.0]], [[1.0, 1.0]]])
    (updated,) = update(x, torch.zeros(1, 2), torch.zeros(1), Route.of(torch.tensor([0, 1]), 2))
    # 0.5 * 3 * (1 + 2) and 0.5 * 10 * 1
    assert updated.flatten().tolist() == pytest.approx([4.5, 5.0])
    assert update.of(0).tolist() == [[1.5, 3.0]]


def test_published_sizes_scale_by_a_quarter_and_start_with_b_at_zero():
    update = RoutedUpdate(4, 768, 768, rank=4, alpha=1.0, parts=3)
    assert update.scale == 0.25
    assert update.up_MQO.count_nonzero() == 0
    assert update.down_MQI.abs().max() <= 768**-0.5  # Kaiming's bound at a = sqrt 5 is 1 / sqrt fan-in
    assert update.down_MQI.std().item() == pytest.approx((768 * 3) ** -0.5, rel=0.02)


def test_each_modality_learns_from_its_own_images_alone():
    made = model()
    made.encode_images(images(4), torch.tensor([1, 1, 3, 3])).sum().backward()
    blocks: Any = made.mer.blocks
    for block in blocks:
        for update in (block.qkv, block.out, block.fc, block.proj):
            for parameter in (update.down_MQI, update.up_MQO):
                assert parameter.grad[[0, 2]].count_nonzero() == 0
                assert parameter.grad[1].abs().sum() > 0
                assert parameter.grad[3].abs().sum() > 0


def test_text_never_enters_mer():
    made = model()
    tokens = made.clip.tokenize(["a woman in a red coat"])
    before = made.encode_texts(tokens)
    for parameter in made.mer.parameters():
        parameter.data += 1
    torch.testing.assert_close(made.encode_texts(tokens), before, rtol=0, atol=0)
    before.sum().backward()
    assert all(parameter.grad is None for parameter in made.mer.parameters())


def test_a_rank_or_a_count_of_ranks_that_can_not_be_says_so():
    with pytest.raises(ValueError, match=r"rank must be in 1\.\.64, got 65"):
        RoutedUpdate(2, 4, 4, rank=65, alpha=1.0)
    with pytest.raises(ValueError, match="one for each of the 3, got 2"):
        per_block((1, 2), 3)


def test_grey_kernels_sum_the_three_channels_without_noise_and_not_their_mean():
    """The published code took their mean, a third of the response, and added noise of .02."""
    patch = torch.nn.Conv2d(3, 8, 4, 4, bias=False)
    tokenizers = Tokenizers(patch)
    grey = torch.randn(2, 1, 8, 8)
    expected = patch(grey.expand(-1, 3, -1, -1))
    for name in ("nir", "sk"):
        number = torch.full((2,), list(CHANNELS).index(name))
        torch.testing.assert_close(tokenizers(grey, number), expected, atol=1e-5, rtol=1e-5)
    for name in ("vis", "cp"):
        torch.testing.assert_close(tokenizers.kernels[name], patch.weight)


def test_tokenizers_are_not_shared_and_keep_the_batchs_order():
    patch = torch.nn.Conv2d(3, 2, 1, bias=False)
    tokenizers = Tokenizers(patch)
    for number, name in enumerate(CHANNELS):
        tokenizers.kernels[name].data.fill_(number + 1.0)
    patches = tokenizers(torch.ones(7, 3, 1, 1), MIXED)[:, 0, 0, 0]
    # three channels of ones count three times, one grey channel once
    assert patches.tolist() == [{0: 3.0, 1: 2.0, 2: 3.0, 3: 12.0}[m] for m in MIXED.tolist()]


def test_channels_are_adapted_both_ways():
    assert adapted(torch.ones(2, 1, 3, 3), 3).shape == (2, 3, 3, 3)
    assert adapted(torch.tensor([0.0, 3.0, 6.0]).view(1, 3, 1, 1), 1).item() == 3
