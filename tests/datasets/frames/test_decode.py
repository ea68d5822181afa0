"""The one decoder: pictures as cameras, scanners and editors write them, and files that are none."""

from __future__ import annotations

import contextlib
import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image
from refsweep.datasets.frames.cache import FrameCache
from refsweep.datasets.frames.decode import MOST_PIXELS, PictureError, decode, decode_given, measure
from refsweep.datasets.frames.pack import Packing, pack
from refsweep.datasets.layouts.cuhk_pedes import PersonText, check
from refsweep.datasets.layouts.refer_kitti import ReferKitti
from refsweep.datasets.layouts.refer_kitti_check import check as check_driving
from refsweep.datasets.problems import DataError, InputError
from refsweep.datasets.storage.store import Store
from refsweep.tests.datasets.layouts.test_cuhk_pedes import items, write

GREY = np.tile(np.arange(0, 256, 4), (8, 1)).astype(np.uint8)


def saved(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def levels(content: bytes) -> np.ndarray:
    return np.asarray(decode(content).image).astype(int)


def tagged(image: Image.Image, orientation: int, kind: str = "PNG", **options: Any) -> bytes:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return saved(image, kind, exif=exif, **options)


def huge_png(width: int, height: int) -> bytes:
    """A PNG that says how large it is, and holds nothing."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checksum

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("factor", [256, 257])
def test_16_bit_grey_is_the_8_bit_picture(factor: int, kind: str):
    deep = saved(Image.fromarray(GREY.astype(np.uint16) * factor), kind)
    assert np.abs(levels(deep) - levels(saved(Image.fromarray(GREY)))).max() <= 1
    assert abs(levels(deep).mean() - GREY.mean()) < 1


def test_32_bit_grey_counts_as_16_bits_and_more_is_refused():
    assert (levels(saved(Image.fromarray(GREY.astype(np.int32) * 257), "TIFF"))[..., 0] == GREY).all()
    with pytest.raises(PictureError, match=r"grey must be in 0\.\.65535, got 0\.\.25200000"):
        decode(saved(Image.fromarray(GREY.astype(np.int32) * 100_000), "TIFF"))
    with pytest.raises(PictureError, match="floating point"):
        decode(saved(Image.fromarray(GREY.astype(np.float32)), "TIFF"))


def test_palettes_and_cmyk_show_their_colours():
    red = Image.new("RGB", (4, 4), (255, 0, 0))
    assert levels(saved(red.convert("P", palette=Image.Palette.ADAPTIVE)))[0, 0].tolist() == [255, 0, 0]
    assert levels(saved(red.convert("1")))[0, 0].tolist() in ([0, 0, 0], [255, 255, 255])
    cmyk = levels(saved(red.convert("CMYK"), "JPEG", quality=95))[0, 0]
    assert np.abs(cmyk - [255, 0, 0]).max() < 8


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_shows_white_paper(mode: str):
    """Else the colours that an editor left below it would show."""
    image = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    image.putpixel((1, 0), (0, 0, 0, 255))
    content = saved(image.convert(mode), **({"transparency": 0} if mode == "P" else {}))
    if mode == "P":
        palette = Image.new("P", (2, 1))
        palette.putpalette([9, 9, 9, 0, 0, 0])
        palette.putpixel((1, 0), 1)
        content = saved(palette, transparency=0)
    assert levels(content)[0].tolist() == [[255, 255, 255], [0, 0, 0]]
    half = Image.new("RGBA", (1, 1), (255, 0, 0, 128))
    assert np.abs(levels(saved(half))[0, 0] - [255, 127, 127]).max() <= 1


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_people_are_turned_upright_and_frames_with_boxes_refused(orientation: int, kind: str):
    upright = Image.new("RGB", (32, 16), (0, 0, 0))
    upright.paste((255, 255, 255), (0, 0, 16, 8))
    back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # what the camera's sensor saw: the turn undone
    stored = upright.transpose(Image.Transpose(back[orientation])) if orientation > 1 else upright
    content = tagged(stored, orientation, kind, **({"quality": 95} if kind == "JPEG" else {}))
    assert np.abs(levels(content) - np.asarray(upright).astype(int)).max() < 40
    assert measure(content) == (32, 16)
    if orientation == 1:
        assert decode(content, turn=False).image.size == measure(content, turn=False) == (32, 16)
        return
    for read in (decode, measure):
        with pytest.raises(PictureError, match=rf"must be 1 \(upright\), got {orientation}"):
            read(content, turn=False)


def test_a_nonsense_orientation_is_upright():
    assert decode(tagged(Image.new("RGB", (3, 2)), 77), turn=False).image.size == (3, 2)


PNG = saved(Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)))
BROKEN = {
    "nothing": (b"", "must be a picture"),
    "text": (b"version https://git-lfs.github.com/spec/v1\n", "must be a picture"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n", "must be a picture"),
    "half a PNG": (PNG[: len(PNG) // 2], "truncated"),
    "half a JPEG": (saved(Image.effect_noise((64, 64), 99), "JPEG")[:900], "truncated"),
    "400 megapixels": (huge_png(20_000, 20_000), "at most 67 megapixels"),
    "100 megapixels": (huge_png(10_000, 10_000), "at most 67 megapixels"),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", BROKEN)
def test_a_file_that_is_no_picture_is_one_sentence(name: str):
    content, message = BROKEN[name]
    for read in (decode, measure) if "half" not in name else (decode,):
        with pytest.raises(PictureError, match=message) as caught:
            read(content)
        assert "\n" not in str(caught.value)
        assert "object at 0x" not in str(caught.value)
    with pytest.raises(InputError, match=r"^gallery image 3 must be a PNG or JPEG file, as bytes or base64: "):
        decode_given(content, "gallery image 3")


@pytest.mark.filterwarnings("ignore")  # Pillow's, of broken EXIF
def test_any_damage_is_a_picture_or_an_error_of_ours():
    rng = np.random.default_rng(0)
    for whole in (PNG, tagged(Image.effect_noise((32, 32), 50), 6, "JPEG"), saved(Image.new("P", (9, 9)), "GIF")):
        for _ in range(60):
            damaged = bytearray(whole)
            for at in rng.integers(0, len(whole), 4):
                damaged[at] = rng.integers(256)
            with contextlib.suppress(PictureError):  # any other error fails
                assert decode(bytes(damaged)).image.mode == "RGB"


def test_the_limit_is_on_pixels():
    side = int(MOST_PIXELS**0.5)
    assert measure(saved(Image.new("1", (side, side)))) == (side, side)


def test_a_tagged_picture_of_a_person_stays_upright_in_a_pack(tmp_path: Path):
    (tmp_path / "data").mkdir()
    store = write(tmp_path / "data", items())
    shown = Image.new("RGB", (8, 16), (0, 0, 0))
    shown.paste((255, 255, 255), (0, 0, 8, 4))
    path = "imgs/cam_a/1_0.jpg"
    (tmp_path / "data" / path).write_bytes(tagged(shown.transpose(Image.Transpose.ROTATE_90), 6, "JPEG", quality=95))
    for frame_px in (None, 12):
        out = Store(str(tmp_path / f"packed{frame_px}"))
        pack(store, out, Packing(frame_px=frame_px))
        for place in (store, out):
            frame = PersonText(place).frames.get(place, path)
            assert frame.shape == (16, 8, 3)
            assert frame[:3].min() > 150
            assert frame[6:].max() < 100
        assert check(out).problems == []


def test_a_tagged_frame_of_a_video_is_refused_by_all_that_read_it(made_copy: Path, tmp_path: Path):
    store = Store(str(made_copy))
    data = ReferKitti(store)
    video = data.videos("train")[0]
    path = data.frame_path(video, 0)
    with Image.open(made_copy / path) as image:
        (made_copy / path).write_bytes(tagged(image, 3))
    message = r"000000\.png: frame won't decode: EXIF's orientation of a frame with boxes must be 1 \(upright\), got 3"
    with pytest.raises(DataError, match=message):
        data.frames.get(store, path)
    with pytest.raises(DataError, match=message):
        data.size(video)
    with pytest.raises(DataError, match=message):
        pack(store, Store(str(tmp_path / "packed")), Packing())
    assert any("got 3" in str(problem) for problem in check_driving(store, decode=False).problems)


@pytest.mark.parametrize("name", ["400 megapixels", "half a PNG"])
def test_every_reader_names_the_file(name: str, tmp_path: Path):
    store, path = write(tmp_path, items()), "imgs/cam_a/1_0.jpg"
    (tmp_path / path).write_bytes(BROKEN[name][0])
    with pytest.raises(DataError, match=f"{path}: frame won't decode: "):
        FrameCache(1).get(store, path)
    (problem,) = check(store).problems
    assert problem.where == path
    (tmp_path / path).unlink()
    (tmp_path / path).mkdir()
    with pytest.raises(DataError, match=f"{path}: frame is missing"):
        FrameCache(1).get(store, path)
