"""`refsweep model query`: the order is the model's, the picture shows it, bad input is refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import ExifTags, Image
from refsweep.datasets.problems import InputError
from refsweep.datasets.storage.store import Store
from refsweep.orchestration.cli import main as cli
from refsweep.orchestration.query import FRAME_PX, HEIGHT_PX, MARGIN_PX, RIGHT, WRONG, named_images, open_gallery, query
from refsweep.tests.datasets.frames.test_decode import BROKEN
from refsweep.tests.trainables.mm_reid.case import write_people as write_multimodal_people
from refsweep.tests.trainables.t2i_reid.case import write_people
from refsweep.tests.trainables.tools import Family, case_of
from refsweep.trainables.mm_reid import task as mm_reid
from refsweep.trainables.t2i_reid import task as t2i_reid
from refsweep.trainables.training.package import Package

CAPTION = "A slim man with dark hair. He is wearing a red shirt."


def family(name: str, folder: Path) -> Family:
    return Family(name=name, case=case_of(name), folder=folder)


def packaged(made: Family) -> Package:
    return made.package(made.task(), {})


@pytest.fixture(scope="module")
def text_data(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("people")
    write_people(folder)
    return str(folder)


@pytest.fixture(scope="module")
def text_model(text_data: str) -> Package:
    return packaged(family("t2i_reid", Path(text_data)))


def test_the_order_is_that_of_the_served_model(text_model: Package, text_data: str, tmp_path: Path):
    gallery = open_gallery(text_model, text_data, "test")
    found = query(text_model, gallery, CAPTION, (), None, 5, tmp_path / "out.png")
    files = [Store(text_data).read(path) for path in gallery.paths]
    served = t2i_reid.serve(text_model).predict({"text": [CAPTION], "gallery": [files]})
    assert found["gallery"] == len(files) == 12
    assert [row["path"] for row in found["found"]] == [gallery.paths[g] for g in served["order"][0][:5]]
    assert [row["score"] for row in found["found"]] == pytest.approx(served["score"][0][:5])


def test_frames_are_green_for_the_person_asked_for_and_red_for_others(
    text_model: Package, text_data: str, tmp_path: Path
):
    gallery = open_gallery(text_model, text_data, "test")
    someone = gallery.identities[0]
    found = query(text_model, gallery, CAPTION, (), someone, 12, tmp_path / "out.png")
    page = np.asarray(Image.open(tmp_path / "out.png"))
    row = page[MARGIN_PX + FRAME_PX // 2]
    right, wrong = ((row == colour).all(-1).sum() for colour in (RIGHT, WRONG))
    width = HEIGHT_PX // 2 + 2 * FRAME_PX  # pictures are 48 x 24
    hits = sum(answer["identity"] == someone for answer in found["found"])
    assert hits == 3
    assert (right, wrong) == (hits * width, (12 - hits) * width)


def test_any_folder_of_images_is_a_gallery(text_model: Package, text_data: str, tmp_path: Path):
    folder = tmp_path / "somewhere" / "below"
    folder.mkdir(parents=True)
    for number, path in enumerate(open_gallery(text_model, text_data, "test").paths[:3]):
        (folder / f"{number}.PNG").write_bytes(Store(text_data).read(path))
    (folder / "notes.txt").write_text("no picture")
    gallery = open_gallery(text_model, str(tmp_path / "somewhere"), "test")
    assert gallery.paths == ["below/0.PNG", "below/1.PNG", "below/2.PNG"]
    assert query(text_model, gallery, CAPTION, (), None, 10, tmp_path / "out.png")["found"][0]["identity"] is None


def test_pictures_and_words_ask_a_model_of_several_modalities(tmp_path: Path):
    folder = write_multimodal_people(tmp_path / "people")
    model = packaged(family("mm_reid", folder))
    gallery = open_gallery(model, str(folder), "test")
    samples = [s for s in mm_reid.open_data(Store(str(folder))).samples("test").to_pylist() if s["modality"] == "nir"]
    file = f"nir={folder}/{samples[0]['path']}"
    both = query(model, gallery, "a person in red", [file], samples[0]["identity"], 2, tmp_path / "out.png")
    served = mm_reid.serve(model).predict(
        {
            "text": ["a person in red"],
            "nir": [Store(str(folder)).read(samples[0]["path"])],
            "gallery": [[Store(str(folder)).read(path) for path in gallery.paths]],
        }
    )
    assert [row["path"] for row in both["found"]] == [gallery.paths[g] for g in served["order"][0][:2]]
    with pytest.raises(InputError, match=r"image must be one of nir=FILE, sk=FILE, cp=FILE, got 'a.png'"):
        query(model, gallery, None, ["a.png"], None, 2, tmp_path / "out.png")
    with pytest.raises(InputError, match="nir is given twice"):
        query(model, gallery, None, [file, file], None, 2, tmp_path / "out.png")
    with pytest.raises(InputError, match="at least one of"):
        query(model, gallery, None, [], None, 2, tmp_path / "out.png")


def test_bad_input_is_said(text_model: Package, text_data: str, tmp_path: Path):
    gallery = open_gallery(text_model, text_data, "test")
    with pytest.raises(InputError, match="takes no image"):
        query(text_model, gallery, CAPTION, ["a.png"], None, 5, tmp_path / "out.png")
    with pytest.raises(InputError, match="text must not be empty"):
        query(text_model, gallery, "  ", (), None, 5, tmp_path / "out.png")
    with pytest.raises(InputError, match="top must be >= 1, got 0"):
        query(text_model, gallery, CAPTION, (), None, 0, tmp_path / "out.png")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no image in the gallery"):
        open_gallery(text_model, str(tmp_path / "empty"), "test")
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "a.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"a\.png.*must be a PNG or JPEG"):
        query(
            text_model, open_gallery(text_model, str(tmp_path / "torn"), "test"), CAPTION, (), None, 5, tmp_path / "o"
        )


def ranked(model: Package, folder: Path, out: Path) -> dict[str, float]:
    """Path -> score of a folder's pictures."""
    found = query(model, open_gallery(model, str(folder), "test"), CAPTION, (), None, 50, out)
    return {row["path"]: row["score"] for row in found["found"]}


def test_however_a_picture_is_stored_it_ranks_the_same(text_model: Package, text_data: str, tmp_path: Path):
    folder = tmp_path / "gallery"
    folder.mkdir()
    path = open_gallery(text_model, text_data, "test").paths[0]
    with Image.open(Path(text_data) / path) as opened:
        grey = opened.convert("L")
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    grey.save(folder / "plain.png")
    Image.fromarray(np.asarray(grey).astype(np.uint16) * 257).save(folder / "deep.png")
    grey.transpose(Image.Transpose.ROTATE_90).save(folder / "turned.png", exif=exif)
    grey.convert("RGBA").save(folder / "alpha.png")
    grey.convert("P").save(folder / "palette.png")
    for name in (".DS_Store", "._plain.png", "Thumbs.db"):
        (folder / name).write_bytes(b"\0\5\x16\7 no picture")
    (folder / "__MACOSX").mkdir()
    (folder / "__MACOSX" / "._plain.png").write_bytes(b"no picture")
    scores = ranked(text_model, folder, tmp_path / "out.png")
    assert sorted(scores) == ["alpha.png", "deep.png", "palette.png", "plain.png", "turned.png"]
    assert list(scores.values()) == pytest.approx([scores["plain.png"]] * 5, abs=1e-5)


def test_a_gallery_that_can_not_be_used_is_one_sentence_with_the_files_name(
    text_model: Package, text_data: str, tmp_path: Path
):
    folder = tmp_path / "gallery"
    folder.mkdir()
    paths = open_gallery(text_model, text_data, "test").paths
    for number in range(3):
        (folder / f"{number}.png").write_bytes((Path(text_data) / paths[number]).read_bytes())
    for content in (BROKEN["400 megapixels"][0], BROKEN["half a PNG"][0], b""):
        (folder / "1.png").write_bytes(content)
        with pytest.raises(InputError, match=f"^{folder}/1.png must be a PNG or JPEG file") as caught:
            ranked(text_model, folder, tmp_path / "out.png")
        assert "\n" not in str(caught.value)
    (folder / "1.png").unlink()
    gallery = open_gallery(text_model, str(folder), "test")
    (folder / "2.png").unlink()
    with pytest.raises(InputError, match=f"^{folder}/2.png: frame is missing$"):
        query(text_model, gallery, CAPTION, (), None, 5, tmp_path / "out.png")
    (folder / "2.png").symlink_to(Path(text_data) / paths[0])
    with pytest.raises(InputError, match="got a link that leads to"):
        open_gallery(text_model, str(folder), "test")
    (folder / "2.png").unlink()
    with pytest.raises(InputError, match="out must be a picture that can be written"):
        ranked(text_model, folder, tmp_path / "nowhere" / "out.png")


@pytest.mark.parametrize(("content", "message"), [(None, "No such file"), (b"no picture", "won't decode")])
def test_a_query_picture_that_can_not_be_used_is_one_sentence(content: bytes | None, message: str, tmp_path: Path):
    ranker = SimpleNamespace(columns=("nir",))
    path = tmp_path / "person.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=f"image .*{path}.*{message}") as caught:
        named_images(ranker, [f"nir={path}"])
    assert "\n" not in str(caught.value)


def test_the_command_writes_the_picture_and_one_json_object(
    text_model: Package,
    text_data: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    text_model.write(Store(str(tmp_path / "model")))
    out = tmp_path / "answer.png"
    words = ["refsweep", "model", "query", str(tmp_path / "model"), "--gallery", text_data, "--text", CAPTION]
    monkeypatch.setattr(sys, "argv", [*words, "--top", "3", "--out", str(out), "--json"])
    assert cli.run_command() == 0
    assert len(json.loads(capsys.readouterr().out)["found"]) == 3
    assert Image.open(out).height > HEIGHT_PX


def test_a_made_data_set_is_a_gallery_and_stays_in_the_storage(
    text_model: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    text_model.write(Store(str(tmp_path / "model")))
    made = ["--storage", str(tmp_path / "out"), "--json"]
    command = ["refsweep", "model", "query", str(tmp_path / "model"), "--text", CAPTION]
    arguments = [
        *command,
        "--gallery",
        "made:cuhk-pedes?identities=10&images=1",
        "--out",
        str(tmp_path / "a.png"),
        *made,
    ]
    monkeypatch.setattr(sys, "argv", arguments)
    assert cli.run_command() == 0
    assert json.loads(capsys.readouterr().out)["gallery"] == 2, "a fifth of ten people is for testing"
    assert [path.name for path in (tmp_path / "out" / "made").glob("*/made.json")] == ["made.json"]
