"""A published iKUN checkpoint computes the same function here."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import pickle  # noqa: TID251  makes the files that must be refused or read safely
from collections import OrderedDict
from pathlib import Path
from types import ModuleType

import pytest
import torch
from refsweep.datasets.problems import InputError
from refsweep.trainables.ikun import Config, Ikun, from_reference, import_checkpoint
from refsweep.trainables.ikun.reference import guess_mode
from refsweep.trainables.towers.clip import ClipTowers
from refsweep.trainables.towers.restricted import load_tensors
from refsweep.trainables.towers.sizes import ClipSizes

CASES = ["None", "cascade attention", "cross correlation", "text-first modulation", "text-first modulation, strong"]


@pytest.fixture(scope="module")
def weights(shared: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("weights", shared / "golden" / "weights.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", CASES)
def test_golden_values_of_the_published_model(name: str, shared: Path, weights: ModuleType):
    case = json.loads((shared / "golden" / "ikun.json").read_text())[name]
    state = {}
    for key, shape in case["state"].items():
        counter = key.endswith("num_batches_tracked")
        made = torch.tensor(0) if counter else torch.as_tensor(weights.weight(key, tuple(shape)))
        state[key] = made * case.get("gain", {}).get(key, 1)
    model = from_reference(state, case["kum_mode"])
    local = torch.as_tensor(weights.tensor(case["input_seed"], tuple(case["shape_local"])))
    whole = torch.as_tensor(weights.tensor(case["input_seed"] + 1, tuple(case["shape_global"])))
    with torch.no_grad():
        logit, visual, textual = model(local, whole, model.clip.tokenize(case["expressions"]))
    torch.testing.assert_close(logit, torch.tensor(case["logits"]), atol=1e-5, rtol=0)
    torch.testing.assert_close(visual[:, :8], torch.tensor(case["vis_feat_head"]), atol=1e-5, rtol=0)
    torch.testing.assert_close(textual[:, :8], torch.tensor(case["text_feat_head"]), atol=1e-5, rtol=0)
    mode = model.config.kum_mode
    assert guess_or_none(state) == (mode if mode in (None, "cascade") else "ambiguous")


def guess_or_none(state: dict[str, torch.Tensor]) -> str | None:
    try:
        return guess_mode(state)
    except InputError:
        return "ambiguous"


def load(path: Path) -> dict[str, torch.Tensor]:
    return load_tensors(io.BytesIO(path.read_bytes()), path.name)


SIZES = ClipSizes(
    embed_dim=32, layers=(1, 1, 1, 1), width=4, text_width=64, text_heads=1, text_layers=1, vocabulary=49408
)


def published_state() -> dict[str, torch.Tensor]:
    """A small model's weights under the published names."""
    torch.manual_seed(0)
    model = Ikun(ClipTowers(SIZES), Config(kum_mode="cascade", crop_px=64, frame_px=96, feature_dim=32))
    back = {"fusion.": "fusion_local_global.", "kum.attention.": "fusion_visual_textual.", "kum.fc.": "fusion_fc."}
    state = OrderedDict()
    for key, value in model.state_dict().items():
        for ours, theirs in back.items():
            if key.startswith(ours):
                key = theirs + key.removeprefix(ours)
                break
        state[f"module.{key}"] = value
    state["module.fusion_ffn.norm.weight"] = torch.ones(3)
    state["module.clip.logit_scale"] = torch.tensor(1.0)
    return state


def test_a_file_in_the_published_layout_loads_and_its_optimiser_is_not_built(tmp_path: Path):
    state = published_state()
    optimiser = torch.optim.AdamW([torch.nn.Parameter(torch.ones(3))])
    optimiser.param_groups[0]["params"][0].sum().backward()
    optimiser.step()
    path = tmp_path / "ikun.pth"
    torch.save({"model": state, "optimizer": optimiser, "epoch": 3}, path)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)
    tensors = load(path)
    assert set(tensors) == {key.removeprefix("module.") for key in state}
    for key, value in state.items():
        torch.testing.assert_close(tensors[key.removeprefix("module.")], value)
    model = from_reference(tensors, "cascade attention", text_heads=1)
    assert not model.training
    torch.testing.assert_close(model.img_fc.weight.data, state["module.img_fc.weight"])


class Evil:
    def __init__(self, call: object, *args: object) -> None:
        self.call, self.args = call, args

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.call, self.args


@pytest.mark.parametrize("call", ["system", "eval", "exec", "open"])
def test_a_malicious_file_is_refused_and_does_nothing(call: str, tmp_path: Path):
    mark = tmp_path / "mark"
    made = {
        "system": Evil(os.system, f"touch {mark}"),
        "eval": Evil(eval, f"open({str(mark)!r}, 'w')"),
        "exec": Evil(exec, f"open({str(mark)!r}, 'w')"),
        "open": Evil(open, str(mark), "w"),
    }[call]
    path = tmp_path / "evil.pth"
    torch.save({"model": published_state(), "optimizer": made}, path)
    with pytest.raises(InputError, match="refused"):
        load(path)
    assert not mark.exists()


def test_tensors_of_every_kind_come_through(tmp_path: Path):
    base = torch.arange(24).reshape(4, 6)
    made = {
        "half": torch.randn(3, 2).half(),
        "bf16": torch.randn(5).bfloat16(),
        "view": base[1:3, ::2],
        "transposed": base.T,
        "scalar": torch.tensor(7),
        "bool": torch.tensor([True, False]),
        "empty": torch.zeros(0, 3),
        "parameter": torch.nn.Parameter(torch.ones(2)),
    }
    torch.save(made, tmp_path / "x.pt")
    tensors = load(tmp_path / "x.pt")
    assert set(tensors) == set(made)
    for key, value in made.items():
        assert tensors[key].dtype == value.dtype
        torch.testing.assert_close(tensors[key], value.detach())


def test_a_torchscript_archive_is_read_without_running_it(tmp_path: Path):
    """OpenAI publishes its CLIP weights so."""
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    torch.jit.script(module).save(str(tmp_path / "m.pt"))
    tensors = load(tmp_path / "m.pt")
    for key, value in module.state_dict().items():
        torch.testing.assert_close(tensors[key], value)


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04torn"])
def test_what_is_no_torch_file_is_refused(content: bytes, tmp_path: Path):
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(InputError, match="can't be read as a torch file"):
        load(tmp_path / "x.pt")


def test_a_torn_torch_file_is_refused(tmp_path: Path):
    torch.save({"a": torch.randn(1000)}, tmp_path / "x.pt")
    whole = (tmp_path / "x.pt").read_bytes()
    (tmp_path / "x.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError):
        load(tmp_path / "x.pt")


def test_a_state_dict_of_another_model_is_refused_by_name():
    with pytest.raises(InputError, match="pos_emb_local"):
        from_reference({"fc.weight": torch.ones(2, 2)}, None)
    state = published_state()
    with pytest.raises(InputError, match="does not fit kum_mode 'cross correlation'"):
        from_reference(state, "cross correlation")
    with pytest.raises(InputError, match="kum_mode must be one of"):
        from_reference(state, "cascading")


def test_a_published_checkpoint_becomes_a_package_of_its_own_sizes(tmp_path: Path):
    path = str(tmp_path / "ikun.pth")
    torch.save({"model": published_state()}, path)
    package = import_checkpoint(path, {"text_heads": 1})
    config = package.config
    assert (config["kum_mode"], config["crop_px"], config["frame_px"], config["feature_dim"]) == ("cascade", 64, 96, 32)
    assert config["tower"] == "RN-1-1-1-1-w4-e32-t64x1h1"
    assert import_checkpoint(path, {"kum_mode": "cascade attention", "text_heads": 1}).config == config
    for fields, message in (
        ({"text_heads": 3}, "text_heads must divide 64, the width of the text tower, got 3"),
        ({"text_heads": "two"}, "text_heads must be a whole number or null, got 'two'"),
        ({"mode": "cascade"}, "mode is no field of ikun's ImportOptions: kum_mode, text_heads"),
        ({"kum_mode": "cascading"}, "kum_mode must be one of"),
    ):
        with pytest.raises(InputError, match=message):
            import_checkpoint(path, fields)
