"""Towers of Hugging Face classes: from a folder, from object storage, safetensors only, at other image sizes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from refsweep.datasets.problems import InputError
from refsweep.datasets.storage.store import Store
from refsweep.trainables.towers import sizes as tower_sizes
from refsweep.trainables.towers import text, vit
from refsweep.trainables.towers.sizes import ImageSizes, TextSizes
from refsweep.trainables.towers.text import TextTower, WordPieces
from refsweep.trainables.towers.vit import ImageTower
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertModel, BertTokenizerFast, ViTConfig, ViTForImageClassification, ViTModel

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "man", "in", "red", "shirt", "##s"]
IMAGE = ImageSizes(width=24, layers=2, heads=2, patch=8)
TEXT = TextSizes(width=24, layers=2, heads=2, vocabulary=len(WORDS), context=32)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ViT and a BERT as their authors would publish them, small."""
    folder = tmp_path_factory.mktemp("published")
    torch.manual_seed(0)
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 96}
    ViTForImageClassification(ViTConfig(**sizes, image_size=32, patch_size=8)).save_pretrained(folder / "vit")
    BertModel(BertConfig(**sizes, vocab_size=len(WORDS), max_position_embeddings=32)).save_pretrained(folder / "bert")
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder / "bert")
    return folder


def test_a_published_vit_gives_the_features_of_its_own_class(published: Path):
    tower = ImageTower(IMAGE, 32, 32, str(published / "vit")).eval()
    theirs = ViTModel.from_pretrained(published / "vit", add_pooling_layer=False).eval()
    image = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        whole, places = tower(image)
        state = theirs(pixel_values=image).last_hidden_state
    torch.testing.assert_close(whole, state[:, 0])
    torch.testing.assert_close(places, state[:, 1:])


def test_positions_follow_the_grid_of_another_image_size(published: Path):
    tower = ImageTower(IMAGE, 64, 16, str(published / "vit"))
    assert tower.places == 8 * 2
    assert tower(torch.randn(2, 3, 64, 16))[1].shape == (2, 16, 24)
    # a map that only rises downwards still does when it is stretched
    rising = torch.arange(4.0).repeat_interleave(4)[None, :, None]
    stretched = vit._resampled(torch.cat([torch.zeros(1, 1, 1), rising], 1), (4, 4), (8, 2))[0, 1:, 0].view(8, 2)
    torch.testing.assert_close(stretched[:, 0], stretched[:, 1])
    assert (stretched[1:, 0] >= stretched[:-1, 0]).all()


def test_a_published_bert_reads_with_its_own_word_pieces(published: Path):
    tower = TextTower(TEXT, str(published / "bert")).eval()
    words = WordPieces.load(str(published / "bert"))
    ids = words.encode(["A man in red shirts", "a man"])
    assert ids == [[2, 5, 6, 7, 8, 9, 10, 3], [2, 5, 6, 3]]
    again = WordPieces(words.as_text())
    assert again.encode(["a man in red shirts"]) == ids[:1]
    table, cut = text.cut(ids, 10)
    assert cut == 0
    theirs = BertModel.from_pretrained(published / "bert", add_pooling_layer=False).eval()
    with torch.no_grad():
        whole, tokens, there = tower(torch.from_numpy(table))
        state = theirs(input_ids=torch.tensor(ids[1:])).last_hidden_state[0]
    assert there.sum(1).tolist() == [8, 4]
    torch.testing.assert_close(whole[1], state[0])
    torch.testing.assert_close(tokens[1, :4], state)


def test_weights_come_from_object_storage(published: Path, s3: str):
    store = Store(f"{s3}/towers/bert")
    for path in (published / "bert").iterdir():
        store.write(path.name, path.read_bytes())
    here, there = TextTower(TEXT, str(published / "bert")), TextTower(TEXT, store.uri)
    assert all(torch.equal(a, b) for a, b in zip(here.parameters(), there.parameters(), strict=True))
    assert WordPieces.load(store.uri).encode(["a man"]) == [[2, 5, 6, 3]]
    with pytest.raises(InputError, match=r"no weights at .*config.json is missing"):
        TextTower(TEXT, f"{s3}/nothing")


def test_weights_that_are_no_safetensors_are_refused(published: Path, tmp_path: Path):
    shutil.copytree(published / "vit", tmp_path / "vit")
    (tmp_path / "vit" / "model.safetensors").unlink()
    torch.save({}, tmp_path / "vit" / "pytorch_model.bin")
    with pytest.raises(InputError, match="can't be read"):
        ImageTower(IMAGE, 32, 32, str(tmp_path / "vit"))


@pytest.mark.parametrize("start", ["module.", "model.", "_orig_mod.", "net.", "state_dict.module._orig_mod."])
def test_wrapped_weights_are_found_and_missing_ones_are_never_left_random(start: str, published: Path, tmp_path: Path):
    for name, make in (("vit", lambda at: ImageTower(IMAGE, 32, 32, at)), ("bert", lambda at: TextTower(TEXT, at))):
        plain = make(str(published / name)).state_dict()
        whole = load_file(published / name / "model.safetensors")
        folder = shutil.copytree(published / name, tmp_path / name)
        save_file({f"{start}{key}": tensor for key, tensor in whole.items()}, folder / "model.safetensors")
        assert all(torch.equal(tensor, plain[key]) for key, tensor in make(str(folder)).state_dict().items())
        save_file({f"teacher.{key}": tensor for key, tensor in whole.items()}, folder / "model.safetensors")
        with pytest.raises(InputError, match=r"weights at .* don't fit: missing .* more; found teacher\."):
            make(str(folder))


def test_weights_of_other_sizes_or_from_nowhere_are_refused(published: Path):
    with pytest.raises(InputError, match=r"other sizes: must be .*'hidden_size': 96.* got .*'hidden_size': 24"):
        ImageTower(tower_sizes.IMAGE["vit-tiny"], 32, 32, str(published / "vit"))
    with pytest.raises(InputError, match=r"weights must be a folder, an s3:// prefix or a hub id, got './nowhere'"):
        TextTower(TEXT, "./nowhere")
    with pytest.raises(InputError, match="convolution tower must be null"):
        ImageTower(tower_sizes.IMAGE["conv-tiny"], 32, 32, "some/weights")


def test_what_follows_the_end_of_a_text_moves_nothing():
    torch.manual_seed(0)
    tower = TextTower(tower_sizes.TEXT["bert-tiny"]).eval()
    ids = torch.tensor([[5, 6, 7, 0, 0, 0], [5, 6, 7, 8, 9, 10]])
    with torch.no_grad():
        torch.testing.assert_close(tower(ids)[0][:1], tower(ids[:1])[0])


def test_folded_words_leave_zero_free_and_tell_words_apart():
    words = text.FoldedWords(2040)
    colours = ["red", "green", "blue", "white", "black", "yellow", "grey", "brown", "purple", "orange", "pink", "beige"]
    ids = words.encode(colours)
    assert all(0 < i < 2040 for one in ids for i in one)
    assert len({tuple(one) for one in ids}) == len(colours)
