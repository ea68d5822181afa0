"""What every layout must do, found by its name; and that a new one is two new files and no other change."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from refsweep.datasets import discovery
from refsweep.datasets.fingerprint import fingerprint
from refsweep.datasets.frames.cache import FrameCache, open_frames
from refsweep.datasets.frames.pack import Packing, pack
from refsweep.datasets.problems import DataError, InputError
from refsweep.datasets.recipes import fields_of
from refsweep.datasets.storage.store import Store
from refsweep.tests.help import tree

ROOT = Path(__file__).parents[2]
ROOMS = ("orchestration", "trainables", "search_spaces", "datasets", "cluster", "examples")


@dataclass(frozen=True)
class Smallest:
    """The smallest made data set of a layout."""

    layout: str
    recipe: Any
    store: Store


def smallest_recipe(layout: str) -> Any:
    """Each number at its lower bound."""
    recipe = discovery.maker(layout).Recipe
    return recipe(**{field.name: field.type(field.low) for field in fields_of(recipe) if field.is_number})


@pytest.fixture(scope="module", params=discovery.made_kinds())
def smallest(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Smallest:
    layout = str(request.param)
    store, recipe = Store(str(tmp_path_factory.mktemp(layout) / "data")), smallest_recipe(layout)
    lines: list[str] = []
    made = discovery.maker(layout).make(store, recipe, lines.append)
    assert lines
    assert all(isinstance(value, int | str) for value in made.values())
    return Smallest(layout, recipe, store)


def test_every_layout_can_be_made():
    assert discovery.made_kinds() == discovery.layouts()
    assert {"cuhk-pedes", "orbench", "refer-kitti"} <= set(discovery.layouts())


def test_made_data_is_recognised_and_sound(smallest: Smallest):
    assert discovery.recognise(smallest.store) == smallest.layout
    layout, findings = discovery.check(smallest.store)
    assert layout == smallest.layout
    assert [p for p in findings.problems if "no positive example" not in p.what] == []
    assert findings.counts
    assert discovery.check(smallest.store, decode=False)[1].counts == findings.counts


def test_the_same_recipe_makes_the_same_files_and_no_others_are_overwritten(smallest: Smallest, tmp_path: Path):
    maker = discovery.maker(smallest.layout)
    maker.make(Store(str(tmp_path / "again")), smallest.recipe, lambda _: None)
    assert tree(tmp_path / "again") == tree(smallest.store.local_path())
    assert json.loads((tmp_path / "again" / "made.json").read_text())["seed"] == 0
    with pytest.raises(InputError, match="must be empty or new"):
        maker.make(smallest.store, smallest.recipe, lambda _: None)


def test_a_pack_reads_like_its_source(smallest: Smallest, tmp_path: Path):
    files = [path for path, _ in smallest.store.walk()]
    frames = discovery.layout(smallest.layout).frame_files(smallest.store, files)
    assert frames
    assert [path for path in files if path in set(frames)] == frames
    packed, cache = Store(str(tmp_path / "packed")), FrameCache(64)
    assert pack(smallest.store, packed, Packing())["frames"] == len(frames)
    assert {path for path, _ in packed.walk()} & set(frames) == set()
    assert discovery.recognise(packed) == smallest.layout
    assert discovery.check(packed)[1].counts == discovery.check(smallest.store)[1].counts
    assert discovery.check(packed)[1].problems == discovery.check(smallest.store)[1].problems
    assert list(open_frames(packed).walk("")) == frames
    for path in frames[:: max(1, len(frames) // 20)]:
        assert (cache.get(packed, path) == cache.get(smallest.store, path)).all()
    assert fingerprint(packed) != fingerprint(smallest.store)


def test_a_picture_that_will_not_decode_is_named_by_check_and_pack(smallest: Smallest, tmp_path: Path):
    copy = Path(shutil.copytree(smallest.store.local_path(), tmp_path / "copy"))
    store = Store(str(copy))
    broken = discovery.layout(smallest.layout).frame_files(store, [path for path, _ in store.walk()])[3]
    (copy / broken).write_bytes(b"scrap")
    problems = [p for p in discovery.check(store)[1].problems if "won't decode" in p.what]
    assert [p.where for p in problems] == [broken]
    with pytest.raises(DataError, match=f"{broken}: frame won't decode"):
        pack(store, Store(str(tmp_path / "packed")), Packing())


@pytest.mark.parametrize("name", discovery.layouts())
def test_nothing_is_recognised_in_a_folder_of_other_things(name: str, tmp_path: Path):
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "pictures").mkdir()
    assert not discovery.layout(name).holds(Store(str(tmp_path)))
    assert not discovery.layout(name).holds(Store(str(tmp_path / "nowhere")))
    with pytest.raises(InputError) as caught:
        discovery.recognise(Store(str(tmp_path)))
    assert f"{name} has {discovery.layout(name).EVIDENCE}" in str(caught.value)


def test_files_of_two_layouts_in_one_place_are_refused(tmp_path: Path):
    (tmp_path / "expression").mkdir()
    (tmp_path / "reid_raw.json").write_text("[]")
    layout, findings = discovery.check(Store(str(tmp_path)))
    assert layout is None
    assert "must be in one layout, got files of cuhk-pedes and refer-kitti" in str(findings.problems[0])


def test_an_option_that_a_layouts_check_does_not_have_is_refused(tmp_path: Path):
    (tmp_path / "reid_raw.json").write_text("[]")
    with pytest.raises(InputError, match="the check of cuhk-pedes has no option tracks"):
        discovery.check(Store(str(tmp_path)), tracks="tracks")


@pytest.mark.parametrize("find", [discovery.layout, discovery.checker, discovery.maker])
def test_an_unknown_name_is_refused_with_the_choices(find: Any):
    for name in ("films", "refer_kitti", "refer-kitti-check", "shared", "../storage/s3"):
        with pytest.raises(InputError, match=f"must be one of {', '.join(discovery.layouts())}, got"):
            find(name)


# -- a new layout ------------------------------------------------------------------------------------------

LAYOUT = '''
"""Dots: pictures of one colour, and a list of their names."""

import json

from ..frames.cache import open_frames
from ..frames.check import image_problems
from ..problems import Findings, Problem

EVIDENCE = "a file dots.json"


def holds(store):
    return "dots.json" in store.names()


def frame_files(store, files):
    return [path for path in files if path.startswith("dots/")]


def check(store, *, decode=True):
    names = json.loads(store.read("dots.json"))
    problems = image_problems(open_frames(store), [f"dots/{name}" for name in names]) if decode else []
    if len(set(names)) < len(names):
        problems.append(Problem("dots.json", "names must be distinct"))
    return Findings(problems, {"dots": len(names)})
'''
MAKER = '''
"""Dots of one colour."""

import io
import json
from dataclasses import dataclass

from PIL import Image

from ..problems import InputError
from ..recipes import check_bounds, number


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    dots: int = number(5, "How many.", low=1)
    grey: float = number(0.5, "From black to white.", low=0, high=1)

    def __post_init__(self):
        check_bounds(self)


def make(out, recipe, tell):
    if out.names():
        raise InputError(f"{out.uri} must be empty or new")
    names = [f"{number}.png" for number in range(recipe.dots)]
    for name in names:
        file = io.BytesIO()
        Image.new("L", (6, 4), round(255 * recipe.grey)).save(file, "PNG")
        out.write(f"dots/{name}", file.getvalue())
    tell("drawn")
    out.write("dots.json", json.dumps(names).encode())
    out.write("made.json", b"{}")
    return {"dots": len(names), "ink": "grey"}
'''
PREPARE = """
import sys
from refsweep.orchestration.spec.data import prepare_data
from refsweep.orchestration.spec.read import make_spec
for uri in sys.argv[1:]:
    try:
        print(*prepare_data(make_spec({"name": "s", "trainable": "toy", "data": uri, "storage": "out",
            "objective": {"metric": "loss", "mode": "min"}})))
    except ValueError as error:
        print(error)
"""


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package with a layout more, below a folder for PYTHONPATH."""
    folder = tmp_path_factory.mktemp("house")
    ignored = shutil.ignore_patterns("__pycache__", ".*")
    for room in ROOMS:
        shutil.copytree(ROOT / room, folder / "refsweep" / room, ignore=ignored)
    shutil.copy(ROOT / "__init__.py", folder / "refsweep")
    (folder / "refsweep/datasets/layouts/throwaway.py").write_text(LAYOUT)
    (folder / "refsweep/datasets/made/throwaway.py").write_text(MAKER)
    return folder


def test_a_new_layout_is_two_new_files(house: Path, tmp_path: Path):
    def run(code: str, *words: str) -> tuple[int, str, str]:
        environment = {**os.environ, "PYTHONPATH": str(house)}
        command = [sys.executable, "-c", code, *words]
        ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        return ended.returncode, ended.stdout, ended.stderr

    def refsweep(*words: str) -> tuple[int, str, str]:
        return run("from refsweep.orchestration.cli.main import main; main()", *words)

    assert "throwaway" in refsweep("data", "make", "--help")[1]
    helped = refsweep("data", "make", "throwaway", "--help")[1]
    assert all(word in helped for word in ("Dots of one colour.", "--dots", "How many.", "[default: 5]", "--grey"))
    code, out, err = refsweep("data", "make", "throwaway", "a", "--dots", "7", "--grey", "0.2", "--json")
    assert (code, err) == (0, "drawn\n")
    assert json.loads(out) == {"uri": str(tmp_path / "a"), "dots": 7, "ink": "grey"}
    assert refsweep("data", "make", "throwaway", "b")[1] == f"{tmp_path}/b: 5 dots\n"
    code, _, err = refsweep("data", "make", "throwaway", "c", "--dots", "3", "--videos", "3")
    assert (code, err) == (2, "refsweep: throwaway takes --dots and --grey, got --videos\n")
    assert refsweep("data", "make", "throwaway", "c", "--grey", "2")[2] == "refsweep: grey must be in 0..1, got 2.0\n"
    code, out, _ = refsweep("data", "check", "a", "--json")
    assert code == 0
    assert json.loads(out) == {"uri": "a", "layout": "throwaway", "counts": {"dots": 7}, "problems": []}
    code, out, _ = refsweep("data", "pack", "a", "packed", "--json")
    assert (code, json.loads(out)["frames"]) == (0, 7)
    assert refsweep("data", "check", "packed")[0] == 0
    (tmp_path / "a/dots/3.png").write_bytes(b"scrap")
    code, out, _ = refsweep("data", "check", "a")
    assert code == 2
    assert "dots/3.png: image won't decode" in out
    uri = "made:throwaway?dots=3&grey=1"
    code, out, err = run(PREPARE, uri, uri, "made:throwaway?ink=3")
    assert code == 0, err
    first, second, refused = out.splitlines()
    assert first == second
    assert refused == "data: made:throwaway takes dots and grey, got ink=3"
    place, data_fingerprint = first.split()
    assert Path(place).parent == tmp_path / "out/made"
    assert Path(place).name.startswith("throwaway-")
    assert len(list(Path(place, "dots").iterdir())) == 3
    assert data_fingerprint.startswith("sha256:")


def test_a_layout_that_lacks_something_says_what(house: Path, tmp_path: Path):
    shutil.copytree(house, tmp_path / "house")
    (tmp_path / "house/refsweep/datasets/layouts/half.py").write_text("EVIDENCE = 'a file half'\n")
    code = (
        "from refsweep.datasets import discovery\n"
        "try:\n    discovery.layout('half')\nexcept ValueError as error:\n    print(error)"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "house")}
    ended = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert "layouts/half.py must define holds, frame_files: see datasets/contract.py" in ended.stdout
