"""Files of weights as people have them: wrapped in anything, of an old format, torn, or made to fill a memory."""

from __future__ import annotations

import io
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from refsweep.datasets.problems import InputError
from refsweep.tests.trainables.ikun.test_ikun_reference import published_state
from refsweep.trainables.ikun import from_reference, import_checkpoint
from refsweep.trainables.towers import restricted
from refsweep.trainables.towers.clip import ClipTowers, build, read_weights, sizes_from_state
from refsweep.trainables.towers.names import unwrapped
from refsweep.trainables.towers.restricted import load_tensors
from safetensors.torch import save_file
from torch import Tensor, nn, ones, zeros

State = dict[str, Tensor]
PLAIN = {name.removeprefix("module."): tensor for name, tensor in published_state().items()}
SOME = ("pos_emb_local", "img_fc.bias", "clip.visual.conv1.weight")  # names that tell an iKUN
OTHERS = {"epoch": 3, "best": 0.5, "optimizer": {"state": {0: {"exp_avg": ones(3)}}, "param_groups": [{"lr": 0.1}]}}


def under(start: str) -> State:
    return {f"{start}{name}": tensor for name, tensor in PLAIN.items()}


def compiled_parts() -> State:
    """As `torch.compile` of parts and DataParallel of others leave it."""
    return {
        name.replace("clip.visual.", "clip._orig_mod.visual.module.").replace("img_fc.", "img_fc._orig_mod."): tensor
        for name, tensor in PLAIN.items()
    }


NESTED: dict[str, Any] = {
    "plain": PLAIN,
    "module.": under("module."),
    "_orig_mod.": under("_orig_mod."),
    "model.": under("model."),
    "net.": under("net."),
    "_orig_mod.module.model.": under("_orig_mod.module.model."),
    "parts": compiled_parts(),
    **{name: {name: PLAIN, **OTHERS} for name in ("model", "state_dict", "model_state_dict", "net")},
    "state_dict of module.": {"state_dict": under("module."), **OTHERS},
    "net in model_state_dict, with others": {
        **OTHERS,
        "model_state_dict": {"net": under("_orig_mod."), "loss.w": ones(2)},
    },
    "state_dict in model in net": {"net": {"model": {"state_dict": under("module._orig_mod.")}}},
    "another model beside it": {"model": {"other.weight": ones(2)}, "state_dict": PLAIN, "ema": under("module.")},
}


@pytest.mark.parametrize("name", NESTED)
def test_weights_are_found_in_any_nesting(name: str, tmp_path: Path):
    torch.save(NESTED[name], tmp_path / "w.pth")
    assert_equal(read_weights(str(tmp_path / "w.pth"), SOME), PLAIN)
    if all(isinstance(value, Tensor) for value in NESTED[name].values()):
        assert_equal(unwrapped(NESTED[name], SOME, "it"), PLAIN)
        save_file(NESTED[name], tmp_path / "w.safetensors")
        assert_equal(read_weights(str(tmp_path / "w.safetensors"), SOME), PLAIN)


def test_an_import_takes_wrapped_weights(tmp_path: Path):
    torch.save({"net": {"model_state_dict": compiled_parts()}, **OTHERS}, tmp_path / "w.pth")
    weights = import_checkpoint(str(tmp_path / "w.pth"), {"text_heads": 1}).weights
    assert torch.equal(weights["img_fc.weight"], PLAIN["img_fc.weight"])
    assert torch.equal(weights["clip.visual.conv1.weight"], PLAIN["clip.visual.conv1.weight"])


def assert_equal(one: State, two: State) -> None:
    assert one.keys() == two.keys()
    assert all(torch.equal(tensor, two[name]) for name, tensor in one.items())


@pytest.mark.parametrize("start", ["_orig_mod.", "state_dict.module."])
def test_towers_take_wrapped_weights_too(start: str, tmp_path: Path):
    torch.manual_seed(3)
    towers = build("ViT-tiny")
    state = {f"{start}{name}": tensor for name, tensor in towers.state_dict().items()}
    torch.save({"model_state_dict": state, **OTHERS}, tmp_path / "w.pt")
    save_file(state, tmp_path / "w.safetensors")
    for file in ("w.pt", "w.safetensors"):
        loaded = build("ViT-tiny", str(tmp_path / file)).state_dict()
        assert all(torch.equal(loaded[name], tensor) for name, tensor in towers.state_dict().items())


def test_names_that_were_found_stand_beside_those_that_are_missing(tmp_path: Path):
    torch.save({"teacher": {"backbone.conv1.weight": ones(2), "backbone.fc.bias": ones(1)}}, tmp_path / "w.pth")
    found = r"found teacher\.backbone\.conv1\.weight, teacher\.backbone\.fc\.bias"
    with pytest.raises(InputError, match=rf"no iKUN state dict: missing pos_emb_local, .* more; {found}$"):
        import_checkpoint(str(tmp_path / "w.pth"), {})
    with pytest.raises(
        InputError, match=r"don't fit: missing .*unknown \['teacher\.backbone\.conv1\.weight', .*in all"
    ):
        build("ViT-tiny", str(tmp_path / "w.pth"))
    state = {name: tensor for name, tensor in PLAIN.items() if not name.startswith("img_fc.w")}
    with pytest.raises(InputError, match=r"missing img_fc\.weight; found head\.weight$"):
        from_reference({**state, "head.weight": ones(2)}, "cascade", 1)


def test_a_model_that_was_saved_whole_is_read_without_building_it():
    model = nn.Sequential(nn.Linear(3, 4), nn.DataParallel(nn.BatchNorm1d(4)))
    plain = {name.replace("module.", ""): tensor for name, tensor in model.state_dict().items()}
    assert_equal(load_tensors(saved({"net": model}), "w.pth"), plain)


def test_two_weights_of_one_name_are_refused():
    with pytest.raises(InputError, match=r"the file holds two weights that may be fc\.weight"):
        unwrapped({"fc.weight": ones(2), "module.fc.weight": zeros(2)}, (), "the file")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a pointer of Git LFS"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"\x10\0\0\0\0\0\0\0{}              ", r"a safetensors file: its name must end with \.safetensors"),
    ],
)
def test_files_that_are_taken_for_weights_are_named(content: bytes, message: str):
    with pytest.raises(InputError, match=f"w.pth is {message}"):
        load_tensors(io.BytesIO(content), "w.pth")


def test_the_old_format_of_torch_is_named(tmp_path: Path):
    torch.save(PLAIN, tmp_path / "w.pth", _use_new_zipfile_serialization=False)
    with pytest.raises(InputError, match=r"w\.pth is in torch's old format, which is no zip file: load it with torch"):
        import_checkpoint(str(tmp_path / "w.pth"), {})


def test_a_folder_and_nothing_are_named(tmp_path: Path):
    with pytest.raises(InputError, match="weights must be a file, got the folder"):
        read_weights(str(tmp_path))
    for name in ("none.pth", "none.safetensors"):
        with pytest.raises(InputError, match="no weights at"):
            read_weights(str(tmp_path / name))


# -- what a small file may come to -----------------------------------------------------------------------------------


def archive(pickled: bytes, storages: dict[str, bytes] | None = None) -> io.BytesIO:
    """A torch file around a pickle."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("m/data.pkl", pickled)
        for name, content in (storages or {}).items():
            made.writestr(f"m/data/{name}", content)
    return file


def saved(content: Any) -> io.BytesIO:
    file = io.BytesIO()
    torch.save(content, file)
    return file


class Copied:
    """Pickled as a call that copies a dict."""

    def __init__(self, content: dict[Any, Any]) -> None:
        self.content = content

    def __reduce__(self) -> Any:
        return OrderedDict, (self.content,)


def bomb() -> io.BytesIO:
    """2 kB that stand for four million entries."""
    content: dict[str, Any] = {str(i): 0 for i in range(8)}
    for _ in range(7):
        content = {str(i): content for i in range(8)}
    return saved({"model": content})


def in_itself() -> io.BytesIO:
    content: dict[str, Any] = {"weight": ones(1)}
    content["model"] = content
    return saved(content)


def deep() -> io.BytesIO:
    levels = 50_000
    return archive(b"\x80\x02" + b"}U\x01a" * levels + b"N" + b"s" * levels + b".")


def long_names() -> io.BytesIO:
    content: Any = {"w": ones(1)}
    for _ in range(20):
        content = {"x" * 100: content}
    return saved(content)


def copies() -> io.BytesIO:
    content = dict.fromkeys(range(3_000))
    return saved([Copied(content) for _ in range(100)])


def inflated() -> io.BytesIO:
    whole = saved({"w": zeros(1 << 20)})
    with zipfile.ZipFile(whole) as plain:
        name = next(n for n in plain.namelist() if n.endswith("data.pkl"))
        return archive(plain.read(name), {"0": bytes(4 << 20)})


HOSTILE = {
    "bomb": (bomb, "it holds more than 200,000 entries"),
    "in itself": (in_itself, "it is nested more than 64 deep, or in itself"),
    "deep": (deep, "it is nested more than 64 deep"),
    "long names": (long_names, "it has a name of more than 1,000 characters"),
    "copies": (copies, "it holds more than 200,000 entries"),
    "inflated": (inflated, "it inflates to more than 1 MiB"),
    "unfolded": (lambda: saved({"w": ones(1).expand(1 << 40)}), "it unfolds to more than 1 MiB"),
    "large pickle": (lambda: archive(b"\x80\x02" + b"0" * (5 << 20)), "its data.pkl is larger than 4 MiB"),
    "large memo": (lambda: archive(b"\x80\x02}r\xff\xff\xff\x7f."), "it uses the opcode LONG_BINPUT with 2147483647"),
    "many stubs": (
        lambda: archive(b"\x80\x02" + b"".join(b"ca\nb%d\n0" % i for i in range(10_001)) + b"N."),
        "it names more than 10,000 things",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_small_file_that_stands_for_gigabytes_is_refused(name: str, monkeypatch: pytest.MonkeyPatch):
    make, message = HOSTILE[name]
    monkeypatch.setattr(restricted, "LEAST_INFLATED", 1 << 20)
    file = make()
    if name not in ("large pickle", "large memo"):
        monkeypatch.setattr(restricted, "MOST_INFLATION", 1)
    with pytest.raises(InputError, match=f"w.pth is refused: {message}") as caught:
        load_tensors(file, "w.pth")
    assert "\n" not in str(caught.value)


def test_a_storage_that_many_tensors_share_is_read_once(monkeypatch: pytest.MonkeyPatch):
    base = torch.arange(40.0)
    file = saved({f"w{i}": base[i : i + 2] for i in range(30)} | {"again": base[:2]})
    reads: list[Any] = []
    before = zipfile.ZipFile.read
    monkeypatch.setattr(zipfile.ZipFile, "read", lambda *words: reads.append(words) or before(*words))
    tensors = load_tensors(file, "w.pth")
    assert torch.equal(tensors["w7"], base[7:9])
    assert len([r for r in reads if isinstance(r[1], zipfile.ZipInfo) and "/data/" in r[1].filename]) == 1


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_a_torn_file_is_one_sentence(name: str, tmp_path: Path):
    path, rng = tmp_path / name, np.random.default_rng(5)
    state = build("ViT-tiny").ln_final.state_dict()
    torch.save({"state_dict": state}, path) if name == "w.pth" else save_file(state, path)
    whole, refused = path.read_bytes(), 0
    for _ in range(150):
        content = bytearray(whole)
        at = int(rng.integers(len(content)))
        content[at : at + 6] = rng.bytes(int(rng.integers(9)))
        path.write_bytes(content)
        try:
            read_weights(str(path))
        except InputError as error:
            refused += 1
            assert "\n" not in str(error)  # noqa: PT017  that others are raised fails the test
    assert refused > 50


def test_sizes_that_make_no_model_are_refused_before_any_is_built():
    wide = dict(PLAIN) | {"clip.visual.layer1.0.conv1.weight": zeros(1, 1).expand(1 << 20, 1)[..., None, None]}
    with pytest.raises(InputError, match="the state dict does not fit kum_mode 'cascade'"):
        from_reference(wide, "cascade", 1)
    for change, message in (
        ({"clip.visual.layer1.7.conv1.weight": ones(1)}, "must have blocks 0, 1, ..., got 0, 7"),
        ({"clip.visual.layer1.x.conv1.weight": ones(1)}, "must have blocks 0, 1, ..., got 0, x"),
        ({"clip.token_embedding.weight": ones(3)}, "token_embedding.weight must have 2 axes"),
        ({"clip.visual.layer1.0.conv1.weight": zeros(0, 1, 1, 1)}, "must have 4 axes, got"),
        ({"pos_emb_local": torch.tensor(1.0)}, "its sizes make no model"),
        ({"img_fc.bias": ones(9_000)}, "its sizes make no model: feature_dim must be in 8..8192"),
    ):
        with pytest.raises(InputError, match=message):
            from_reference({**PLAIN, **change}, "cascade", 1)
    with pytest.raises(InputError, match=r"no ResNet CLIP: visual\.layer1\. must have blocks .* got none"):
        sizes_from_state(build("ViT-tiny").state_dict())


def test_sizes_are_those_of_the_towers():
    clip = {name.removeprefix("clip."): tensor for name, tensor in PLAIN.items() if name.startswith("clip.")}
    towers: nn.Module = ClipTowers(sizes_from_state(clip, 1))
    assert towers.state_dict().keys() <= clip.keys()
