"""CLIP's towers: words, places, sizes of images, and weights from files and objects."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from refsweep.datasets.layouts.refer_kitti import normalise
from refsweep.datasets.made.driving.expressions import _templates
from refsweep.datasets.problems import InputError
from refsweep.datasets.storage.store import Store
from refsweep.trainables.towers.clip import ClipTowers, _resample, build
from refsweep.trainables.towers.sizes import CLIP, VOCABULARY, ClipSizes
from safetensors.torch import save as save_safetensors
from torch import Tensor

TEXTS = sorted({normalise(t.raw) for t in _templates()} | {t.raw.replace("-", " ") for t in _templates()})
END = VOCABULARY - 1
SMALL_RESNET = ClipSizes(embed_dim=32, layers=(1, 1, 1, 1), width=4, text_width=64, text_heads=1, text_layers=1)
State = dict[str, Tensor]


def vit() -> ClipTowers:
    torch.manual_seed(0)
    return build("ViT-tiny").eval()


@pytest.mark.parametrize("name", ["conv-tiny", "ViT-tiny"])
def test_every_expression_fits_the_context_and_ends_with_its_end_token(name: str):
    towers = build(name)
    tokens_ET = towers.tokenize(TEXTS)
    assert tokens_ET.shape == (len(TEXTS), CLIP[name].context)
    assert tokens_ET.dtype == torch.int64
    for text, row in zip(TEXTS, tokens_ET.tolist(), strict=True):
        assert row.count(END) == 1
        words = towers._tokenizer.decode(row[1 : row.index(END)])
        assert words.replace(" ", "") == text.replace(" ", "")


def test_a_text_that_is_too_long_is_cut_and_keeps_its_end():
    towers = build("conv-tiny")
    fits, cut = towers.tokenize(["car " * 18, "car " * 19])
    assert fits[-1] == cut[-1] == END
    torch.testing.assert_close(fits, cut)


def test_words_of_the_grammar_do_not_collide_in_the_folded_vocabulary():
    towers = build("conv-tiny")
    ids = torch.unique(towers.tokenize(TEXTS))
    assert len(ids) > 40
    assert len(torch.unique(ids % towers.sizes.vocabulary)) == len(ids)


@torch.no_grad()
def test_a_folded_vocabulary_keeps_the_end_tokens_position():
    towers = build("conv-tiny").eval()
    texts = ["car", "left car in the same direction of ours", "women carrying a bag"]
    tokens_ET = towers.tokenize(texts)
    assert (tokens_ET % towers.sizes.vocabulary).argmax(-1).tolist() != tokens_ET.argmax(-1).tolist()
    states_ETD, end_ED = towers.encode_text(tokens_ET, towers.sizes.context)
    for row, states_TD, end_D in zip(tokens_ET.tolist(), states_ETD, end_ED, strict=True):
        torch.testing.assert_close(end_D, states_TD[row.index(END)])


@torch.no_grad()
def test_only_the_first_states_are_given_and_what_follows_the_end_does_not_matter():
    towers = build("conv-tiny").eval()
    tokens_ET = towers.tokenize(["car in black"])
    states_ETD, end_ED = towers.encode_text(tokens_ET, 3)
    assert states_ETD.shape == (1, 3, towers.sizes.embed_dim)
    padded_ET = torch.where(torch.arange(towers.sizes.context) > 4, 320, tokens_ET)
    assert not torch.equal(padded_ET, tokens_ET)
    torch.testing.assert_close(towers.encode_text(padded_ET, 3)[1], end_ED)


def test_an_unknown_tower_names_the_choices():
    with pytest.raises(InputError, match=f"tower must be one of {', '.join(CLIP)}.*got 'RN51'"):
        build("RN51")


@pytest.mark.parametrize(("name", "tags"), [("RN50", "openai, yfcc15m, cc12m"), ("ViT-tiny", "none")])
def test_an_unknown_tag_names_the_tags(name: str, tags: str):
    with pytest.raises(InputError, match=f"weights of {name} must be .* one of the tags {tags}, got 'closedai'"):
        build(name, "closedai")


@pytest.mark.parametrize(
    ("sizes", "px", "places"),
    [
        (CLIP["conv-tiny"], 64, 16),
        (CLIP["conv-tiny"], 96, 36),
        (CLIP["ViT-tiny"], 64, 16),
        (CLIP["ViT-tiny"], 96, 36),
        (SMALL_RESNET, 64, 4),
        (SMALL_RESNET, 96, 9),
        (SMALL_RESNET, 224, 49),
    ],
)
@torch.no_grad()
def test_places_are_what_the_tower_gives(sizes: ClipSizes, px: int, places: int):
    towers = ClipTowers(sizes).eval()
    assert towers.places(px) == places
    assert towers.encode_image(torch.randn(2, 3, px, px)).shape == (2, places, towers.visual_dim)


def test_a_vit_interpolates_its_positions():
    # 4 x 4 positions that hold their row and column; between inner ones cubic interpolation is linear
    row, column = torch.meshgrid(torch.arange(4.0), torch.arange(4.0), indexing="ij")
    grid_LD = torch.stack([row.flatten(), column.flatten(), torch.full((16,), 7.0)], 1)
    first = torch.tensor([[-1.0, -2.0, -3.0]])
    resampled = _resample(torch.cat([first, grid_LD]), (4, 4), (8, 8))
    assert resampled.shape == (65, 3)
    torch.testing.assert_close(resampled[:1], first)
    resampled_HWD = resampled[1:].view(8, 8, 3)
    torch.testing.assert_close(resampled_HWD[3:5, 0, 0], torch.tensor([1.25, 1.75]))
    torch.testing.assert_close(resampled_HWD[0, 3:5, 1], torch.tensor([1.25, 1.75]))
    torch.testing.assert_close(resampled_HWD[..., 2], torch.full((8, 8), 7.0))
    torch.testing.assert_close(resampled_HWD[..., 0], resampled_HWD[..., 1].T)


@torch.no_grad()
def test_a_vit_tells_rows_apart_by_interpolated_positions():
    towers = vit()
    position_LD = towers.visual.get_parameter("positional_embedding")
    by_row = torch.arange(4.0).repeat_interleave(4)[:, None] * torch.randn(1, position_LD.shape[1])
    position_LD[1:] = by_row
    map_HWD = towers.encode_image(torch.ones(1, 3, 96, 96))[0].view(6, 6, -1)
    torch.testing.assert_close(map_HWD, map_HWD[:, :1].expand_as(map_HWD), atol=1e-4, rtol=1e-4)
    assert (map_HWD[1:, 0] - map_HWD[:-1, 0]).abs().amax(-1).min() > 1e-2


def as_torch(state: State) -> bytes:
    buffer = io.BytesIO()
    torch.save({"state_dict": state}, buffer)
    return buffer.getvalue()


@pytest.fixture
def place(tmp_path: Path) -> Callable[[bytes, str], str]:
    """Writes a file and says where it is."""

    def write(content: bytes, name: str) -> str:
        (tmp_path / name).write_bytes(content)
        return str(tmp_path / name)

    return write


def outputs(towers: ClipTowers) -> tuple[Tensor, ...]:
    image = torch.linspace(-1, 1, 2 * 3 * 64 * 64).view(2, 3, 64, 64).sin()
    with torch.no_grad():
        return towers.encode_image(image), *towers.encode_text(towers.tokenize(["car", "left car"]), 4)


def assert_same(loaded: ClipTowers, expected: ClipTowers) -> None:
    for mine, theirs in zip(outputs(loaded.eval()), outputs(expected), strict=True):
        torch.testing.assert_close(mine, theirs, atol=0, rtol=0)


def test_weights_of_files_give_equal_outputs(place: Callable[[bytes, str], str]):
    towers = vit()
    assert (outputs(build("ViT-tiny").eval())[0] - outputs(towers)[0]).abs().max() > 1e-3
    assert_same(build("ViT-tiny", place(save_safetensors(towers.state_dict()), "w.safetensors")), towers)
    assert_same(build("ViT-tiny", place(as_torch(towers.state_dict()), "w.pt")), towers)


def test_weights_of_an_s3_object_give_equal_outputs(s3: str):
    towers, store = vit(), Store(f"{s3}/weights")
    store.write("w.safetensors", save_safetensors(towers.state_dict()))
    store.write("w.pt", as_torch(towers.state_dict()))
    assert_same(build("ViT-tiny", f"{s3}/weights/w.safetensors"), towers)
    assert_same(build("ViT-tiny", f"{s3}/weights/w.pt"), towers)


def test_half_weights_are_widened_and_what_only_pooling_needs_is_ignored(place: Callable[[bytes, str], str]):
    state = {k: v.half() for k, v in vit().state_dict().items() if k != "visual.proj"}
    state |= {"logit_scale": torch.tensor(1.0), "visual.attnpool.k_proj.bias": torch.ones(3)}
    towers = build("ViT-tiny", place(save_safetensors(state), "half.safetensors"))
    assert {p.dtype for p in towers.parameters()} == {torch.float32}
    torch.testing.assert_close(towers.ln_final.weight.data, state["ln_final.weight"].float())


def without(state: State) -> State:
    return {k: v for k, v in state.items() if k != "ln_final.weight"}


def narrower(state: State) -> State:
    return state | {"ln_final.weight": torch.ones(3)}


def longer(state: State) -> State:
    return state | {"visual.more": torch.ones(3)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without, r"don't fit: missing \['ln_final.weight'\]"),
        (narrower, "other sizes: .*ln_final.weight"),
        (longer, r"unknown \['visual.more'\]"),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    change: Callable[[State], State], message: str, place: Callable[[bytes, str], str]
):
    uri = place(save_safetensors(change(vit().state_dict())), "w.safetensors")
    with pytest.raises(InputError, match=f"(?s)weights at {uri} .*{message}"):
        build("ViT-tiny", uri)


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
def test_a_missing_or_torn_file_of_weights_is_refused(name: str, place: Callable[[bytes, str], str], tmp_path: Path):
    with pytest.raises(InputError, match="no weights at"):
        build("conv-tiny", str(tmp_path / name))
    state = build("conv-tiny").state_dict()
    whole = save_safetensors(state) if name.endswith("safetensors") else as_torch(state)
    uri = place(whole[: len(whole) // 2], name)
    with pytest.raises(InputError, match=uri):
        build("conv-tiny", uri)
