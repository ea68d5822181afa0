"""Low-rank adaptation, focal loss, and how text meets visual tokens, each against a slow obvious version."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812  its usual name
from refsweep.trainables.ikun import Config, Ikun
from refsweep.trainables.layers.kum import MODES, Cascade, CrossCorrelation, TextFirst, make, project
from refsweep.trainables.layers.lora import add_lora, merge_lora
from refsweep.trainables.losses.focal import focal_bce
from refsweep.trainables.towers.clip import ClipTowers, build
from torch import Tensor, nn

ADAPTED = ("in_proj_weight", "out_proj", "c_fc", "c_proj")


def vit(seed: int = 0) -> ClipTowers:
    torch.manual_seed(seed)
    return build("ViT-tiny").eval()


def adapted_vit(seed: int = 0, rank: int = 4) -> ClipTowers:
    """A tower whose adaptation does something."""
    towers = vit(seed)
    add_lora([towers.visual], rank, 16.0)
    for name, parameter in towers.visual.named_parameters():
        if name.endswith("up_OR"):
            nn.init.normal_(parameter, std=0.1)
    return towers


def image(px: int = 64) -> Tensor:
    return torch.randn(2, 3, px, px, generator=torch.Generator().manual_seed(5))


def test_lora_starts_as_the_identity_change():
    towers = vit()
    before = towers.encode_image(image()).detach()
    assert add_lora([towers.visual], 4, 16.0) == 3 * len(ADAPTED)
    torch.testing.assert_close(towers.encode_image(image()), before, atol=0, rtol=0)


def test_only_low_rank_parameters_train_in_adapted_modules():
    towers = vit()
    add_lora([towers.visual], 4, 16.0)
    trained = {n: p.shape for n, p in towers.visual.named_parameters() if p.requires_grad}
    assert len(trained) == 2 * 3 * len(ADAPTED)
    for name, shape in trained.items():
        assert any(part in name for part in ADAPTED), name
        assert name.endswith(("down_RI", "up_OR"))
        assert shape[0 if name.endswith("down_RI") else 1] == 4
    assert all(p.requires_grad for p in towers.transformer.parameters())


def test_the_change_is_alpha_over_rank_times_up_times_down():
    towers = vit()
    layer = towers.visual.get_submodule("transformer.resblocks.1.mlp.c_fc")
    assert isinstance(layer, nn.Linear)
    before = layer.weight.detach().clone()
    add_lora([layer], 2, 6.0)
    up, down = torch.randn(before.shape[0], 2), torch.randn(2, before.shape[1])
    layer.load_state_dict({"parametrizations.weight.0.up_OR": up, "parametrizations.weight.0.down_RI": down}, False)
    torch.testing.assert_close(layer.weight, before + 3.0 * up @ down)


def test_gradient_reaches_low_rank_parameters_and_a_step_changes_outputs():
    towers = vit()
    add_lora([towers.visual], 4, 16.0)
    trained = {n: p for n, p in towers.visual.named_parameters() if p.requires_grad}
    optimiser = torch.optim.SGD(trained.values(), lr=0.1)
    before = towers.encode_image(image()).detach()
    for step in range(2):
        optimiser.zero_grad()
        towers.encode_image(image())[:, :, :5].square().mean().backward()
        for name, parameter in trained.items():
            moves = step > 0 or name.endswith("up_OR")  # up starts at 0 and holds the first gradient of down there
            assert parameter.grad is not None, name
            assert (parameter.grad.abs().max() > 0) == moves, name
        optimiser.step()
        assert (towers.encode_image(image()) - before).abs().max() > 1e-4
    frozen = [n for n, p in towers.visual.named_parameters() if n not in trained and p.grad is not None]
    assert not frozen


def test_merging_keeps_outputs_and_removes_the_parameters():
    towers = adapted_vit()
    with torch.no_grad():
        adapted = towers.encode_image(image())
        assert (adapted - vit().encode_image(image())).abs().max() > 1e-3
        merge_lora(towers)
        torch.testing.assert_close(towers.encode_image(image()), adapted, atol=1e-6, rtol=0)
    assert set(towers.state_dict()) == set(vit().state_dict())


def test_an_adapted_state_dict_round_trips():
    source, target = adapted_vit(0), adapted_vit(1)
    assert (source.encode_image(image()) - target.encode_image(image())).abs().max() > 1e-3
    target.load_state_dict(source.state_dict())
    torch.testing.assert_close(target.encode_image(image()), source.encode_image(image()), atol=0, rtol=0)


@pytest.mark.parametrize("rank", [0, -1, 65])
def test_a_rank_out_of_range_is_refused(rank: int):
    with pytest.raises(ValueError, match=rf"rank must be in 1\.\.64, got {rank}"):
        add_lora([vit().visual], rank, 16.0)


@pytest.mark.parametrize("rank", [1, 64])
def test_the_ends_of_the_rank_range_are_allowed(rank: int):
    assert add_lora([vit().visual], rank, 16.0) == 12


def test_a_tower_without_linear_layers_is_refused():
    with pytest.raises(ValueError, match="nothing to adapt"):
        add_lora([build("conv-tiny").visual], 4, 16.0)


def slow_focal(logits: list[Tensor], labels: list[float], gamma: float, rho: float | None) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for logit, label in zip(logits, labels, strict=True):
        p = 1 / (1 + torch.exp(-logit))
        p_true = p if label else 1 - p
        weight = rho if rho is not None and label else 1.0
        total = total - weight * (1 - p_true) ** gamma * torch.log(p_true)
    return total


def pairs(count: int = 12) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    logit = 2 * torch.randn(count, generator=generator, dtype=torch.float64)
    return logit, (torch.rand(count, generator=generator) < 0.4).double()


def test_gamma_0_without_rho_is_plain_cross_entropy():
    logit, label = pairs()
    plain = F.binary_cross_entropy_with_logits(logit, label, reduction="sum")
    torch.testing.assert_close(focal_bce(logit, label, 0.0, None), plain)


@pytest.mark.parametrize(
    ("label", "rho", "nats"),
    [(1.0, None, math.log(4 / 3) / 16), (0.0, None, 9 / 16 * math.log(4)), (1.0, 3.0, 3 * math.log(4 / 3) / 16)],
)
def test_one_pair_by_hand(label: float, rho: float | None, nats: float):
    # logit ln 3 is p = 3/4: a positive costs (1/4)^2 ln(4/3), a negative (3/4)^2 ln 4
    loss = focal_bce(torch.tensor([math.log(3)]).double(), torch.tensor([label]).double(), 2.0, rho)
    assert loss.item() == pytest.approx(nats)


def test_rho_weighs_positives_only():
    logit, label = pairs()
    of_positives = focal_bce(logit[label > 0], label[label > 0], 2.0, None)
    of_negatives = focal_bce(logit[label == 0], label[label == 0], 2.0, None)
    torch.testing.assert_close(focal_bce(logit, label, 2.0, 2.5), 2.5 * of_positives + of_negatives)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 4.0])
@pytest.mark.parametrize("rho", [None, 0.25, 4.0])
def test_value_and_gradient_are_those_of_the_slow_formula(gamma: float, rho: float | None):
    logit, label = pairs()
    fast = logit.clone().requires_grad_()
    slow = [x.clone().requires_grad_() for x in logit]
    loss, expected = focal_bce(fast, label, gamma, rho), slow_focal(slow, label.tolist(), gamma, rho)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(fast.grad, torch.stack([x.grad for x in slow]))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("size", [20.0, 100.0, 1e4])
def test_extreme_logits_give_finite_loss_and_gradient(gamma: float, size: float):
    logit = torch.tensor([size, size, -size, -size], requires_grad=True)
    loss = focal_bce(logit, torch.tensor([1.0, 0.0, 1.0, 0.0]), gamma, 2.0)
    assert loss.item() == pytest.approx(3 * size, rel=1e-4)  # one negative, one positive at rho 2 wrong by `size`
    loss.backward()
    torch.testing.assert_close(logit.grad, torch.tensor([0.0, 1.0, -2.0, 0.0]), atol=1e-3, rtol=0)


def slow_attention(attention: nn.MultiheadAttention, query_LC: Tensor, text_KC: Tensor) -> Tensor:
    """softmax(q k / sqrt(c)) v, one head, place and token at a time."""
    size, heads = attention.embed_dim, attention.num_heads
    width = size // heads
    weight, bias = attention.in_proj_weight.split(size), attention.in_proj_bias.split(size)
    joined = torch.zeros(len(query_LC), size)
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        for place, query in enumerate(query_LC):
            q = (weight[0] @ query + bias[0])[part]
            k = [(weight[1] @ token + bias[1])[part] for token in text_KC]
            v = [(weight[2] @ token + bias[2])[part] for token in text_KC]
            power = [math.exp(float(q @ one) / math.sqrt(width)) for one in k]
            joined[place, part] = sum(e / sum(power) * one for e, one in zip(power, v, strict=True))
    return joined @ attention.out_proj.weight.T + attention.out_proj.bias


def spread(module: Any) -> Any:
    """Parameters and batch statistics that do something, in eval mode."""
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm1d):
            nn.init.uniform_(part.running_mean, -1, 1)
            nn.init.uniform_(part.running_var, 0.5, 2)
    return module.eval()


def by_hand(layers: Any, value_C: Tensor) -> Tensor:
    """A 1x1 convolution and a batch norm of one place."""
    convolution, norm = layers
    centred_C = convolution.weight[..., 0] @ value_C - norm.running_mean
    return centred_C / (norm.running_var + norm.eps) ** 0.5 * norm.weight + norm.bias


@pytest.mark.parametrize("part", [0, 1, 2])
def test_project_is_the_part_of_the_stacked_projection(part: int):
    attention = spread(nn.MultiheadAttention(6, 2, batch_first=True))
    token = torch.randn(2, 3, 5, 6)
    rows = range(6 * part, 6 * part + 6)
    projected = project(attention, part, token)
    slow = torch.stack([token @ attention.in_proj_weight[r] + attention.in_proj_bias[r] for r in rows], -1)
    torch.testing.assert_close(projected, slow)


@torch.no_grad()
def test_cascade_equals_a_slow_attention_loop():
    torch.manual_seed(3)
    module = make("cascade", channels=8, state_dim=5, feature_dim=7, heads=2, dropout=0.0)
    assert isinstance(module, Cascade)
    spread(module)
    token_PLC, state_PKD = torch.randn(3, 4, 8), torch.randn(3, 6, 5)
    tokens = module.after(token_PLC, state_PKD)
    for pair in range(3):
        text_KC = state_PKD[pair] @ module.fc.weight.T + module.fc.bias
        slow = token_PLC[pair] * slow_attention(module.attention, token_PLC[pair], text_KC)
        torch.testing.assert_close(tokens[pair], slow, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_cross_correlation_by_hand_in_eval_mode():
    torch.manual_seed(4)
    module = make("cross_correlation", channels=6, state_dim=5, feature_dim=3, heads=2, dropout=0.5)
    assert isinstance(module, CrossCorrelation)
    spread(module)
    token_PLC, feature_PD = torch.randn(2, 4, 6), torch.randn(2, 3)
    tokens = module.after(token_PLC, feature_PD)
    for pair in range(2):
        gate_C = by_hand(module.conv1, feature_PD[pair])
        for place in range(4):
            token_C = token_PLC[pair, place]
            torch.testing.assert_close(tokens[pair, place], by_hand(module.conv2, token_C + token_C * gate_C))


@torch.no_grad()
def test_text_first_multiplies_each_channel_by_its_gate():
    torch.manual_seed(4)
    module = make("text_first", channels=6, state_dim=5, feature_dim=3, heads=2, dropout=0.5)
    assert isinstance(module, TextFirst)
    spread(module)
    token_PLC, feature_PD = torch.randn(2, 4, 6), torch.randn(2, 3)
    tokens = module.modulate(token_PLC, feature_PD)
    for pair in range(2):
        gate_C = by_hand(module.conv1, feature_PD[pair])
        torch.testing.assert_close(tokens[pair], token_PLC[pair] * gate_C)


@torch.no_grad()
@pytest.mark.parametrize("gate", [0.0, 1.0])
def test_text_first_leaves_value_and_residual_alone(gate: float):
    torch.manual_seed(5)
    config = Config(tower="conv-tiny", kum_mode="text_first", crop_px=32, frame_px=48, feature_dim=8)
    model = Ikun(build("conv-tiny"), config).eval()
    assert isinstance(model.kum, TextFirst)
    nn.init.zeros_(model.kum.conv1[1].weight)
    nn.init.constant_(model.kum.conv1[1].bias, gate)
    crop, frame, tokens = torch.randn(1, 3, 32, 32), torch.randn(1, 3, 48, 48), model.clip.tokenize(["car"])
    views = model.encode_views(crop, frame)
    if gate:  # of one modulates nothing
        fused_NLC = model.fuse(views.crop_NLC, views.frame_NMC)
    else:  # of zero compares nothing: attention is the same everywhere
        value_NC = project(model.fusion, 2, views.frame_NMC).mean(1)
        fused_NLC = model.fusion.out_proj(value_NC)[:, None] + views.crop_NLC
    expected = F.normalize(model.img_fc(model.pool(fused_NLC)), dim=-1)
    torch.testing.assert_close(model(crop[None], frame[None], tokens).visual_BD, expected, atol=1e-5, rtol=1e-5)


def test_no_mode_makes_no_module_and_an_unknown_one_names_the_choices():
    sizes = {"channels": 8, "state_dim": 4, "feature_dim": 4, "heads": 2, "dropout": 0.0}
    assert make(None, **sizes) is None
    with pytest.raises(ValueError, match=f"kum_mode must be one of {', '.join(MODES)}.*got 'concat'"):
        make("concat", **sizes)
