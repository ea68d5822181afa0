"""Scoring all windows against all expressions equals scoring pair by pair."""

from __future__ import annotations

import pytest
import torch
from refsweep.trainables.choices import KumMode
from refsweep.trainables.ikun import Config, Ikun
from refsweep.trainables.ikun.model import GEOMETRY
from refsweep.trainables.ikun.scoring import Scorer
from refsweep.trainables.layers.kum import MODES, CrossCorrelation, TextFirst
from refsweep.trainables.towers.clip import build

TEXTS = ["car in black", "left car which are parking", "pedestrian", "women in the right"]


def model_of(mode: KumMode | None, tower: str = "conv-tiny", geometry: bool = False, quirk: bool = False) -> Ikun:
    torch.manual_seed(1)
    config = Config(
        tower=tower,
        kum_mode=mode,
        crop_px=64,
        frame_px=96,
        feature_dim=48,
        geometry=geometry,
        eval_normalises_text=quirk,
    )
    model = Ikun(build(tower), config)
    for module in model.modules():  # batch norms that do something
        if isinstance(module, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.2, 0.2)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.data += 0.1 * torch.randn_like(parameter)
    model.fusion.in_proj_weight.data *= 3
    if isinstance(model.kum, CrossCorrelation | TextFirst):
        next(model.kum.conv1.parameters()).data *= 8
    return model.eval()


@pytest.mark.parametrize("mode", [None, *MODES])
@pytest.mark.parametrize("tower", ["conv-tiny", "ViT-tiny"])
@pytest.mark.parametrize("geometry", [False, True])
def test_shared_encoding_gives_the_scores_of_single_pairs(mode: KumMode | None, tower: str, geometry: bool):
    model = model_of(mode, tower, geometry)
    frames, frame_of = torch.randn(3, 3, 96, 96), torch.tensor([0, 0, 1, 2, 2, 2])
    crops, places = torch.randn(6, 3, 64, 64), torch.randn(6, GEOMETRY)
    looked = torch.tensor([[0, 2], [1, 3], [3, 4], [5, 5]])
    tokens = model.clip.tokenize(TEXTS)
    scorer = Scorer(model, tokens)
    given = places if geometry else None
    fast = scorer.windows(scorer.crops(frames, crops, frame_of, given), looked)
    assert fast.shape == (4, 4)
    with torch.no_grad():
        for window, pair in enumerate(looked):
            for index in range(len(TEXTS)):
                slow = model(
                    crops[pair][None],
                    frames[frame_of[pair]][None],
                    tokens[index : index + 1],
                    places[pair][None] if geometry else None,
                )
                torch.testing.assert_close(fast[window, index], slow.logit_B[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("mode", ["cross_correlation", "text_first"])
def test_the_published_eval_quirk_is_kept_by_both(mode: KumMode):
    images, crops = torch.randn(1, 3, 96, 96), torch.randn(1, 3, 64, 64)
    scores = []
    for quirk in (False, True):
        model = model_of(mode, quirk=quirk)
        tokens = model.clip.tokenize(TEXTS)
        scorer = Scorer(model, tokens)
        fast = scorer.windows(scorer.crops(images, crops, torch.tensor([0])), torch.tensor([[0, 0]]))[0]
        with torch.no_grad():
            slow = model(crops[None].expand(4, 2, -1, -1, -1), images[None].expand(4, 2, -1, -1, -1), tokens).logit_B
        torch.testing.assert_close(fast, slow, atol=1e-5, rtol=0)
        scores.append(slow)
    assert (scores[0] - scores[1]).abs().max() > 1e-4


def test_training_mode_is_refused():
    model = model_of("cascade").train()
    with pytest.raises(ValueError, match="eval mode"):
        Scorer(model, model.clip.tokenize(TEXTS))


def test_without_guidance_the_text_does_not_reach_the_visual_feature():
    model = model_of("cascade")
    crops, images = torch.randn(1, 2, 3, 64, 64), torch.randn(1, 2, 3, 96, 96)
    both = crops.expand(2, -1, -1, -1, -1), images.expand(2, -1, -1, -1, -1)
    tokens = model.clip.tokenize(TEXTS[:2])
    with torch.no_grad():
        unguided, guided = model(*both, tokens, guided=False), model(*both, tokens)
    torch.testing.assert_close(unguided.visual_BD[0], unguided.visual_BD[1])
    assert (guided.visual_BD[0] - guided.visual_BD[1]).abs().max() > 1e-4


def test_bytes_are_normalised_as_clip_does():
    model = model_of(None)
    image = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    mean, std = torch.tensor([0.48145466, 0.4578275, 0.40821073]), torch.tensor([0.26862954, 0.26130258, 0.27577711])
    by_hand = (image / 255 - mean[:, None, None]) / std[:, None, None]
    with torch.no_grad():
        torch.testing.assert_close(model.encode_crops(image), model.encode_crops(by_hand), atol=1e-5, rtol=1e-5)


def test_a_model_with_geometry_asks_for_it():
    model = model_of(None, geometry=True)
    with pytest.raises(ValueError, match="geometry_BTG must be given"):
        model.encode_crops(torch.randn(1, 3, 64, 64))
