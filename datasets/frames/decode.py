"""The one place that decodes pictures: frames, people, galleries, queries, requests.

Whatever the file holds, the picture is RGB of 8 bits a channel:

- 16-bit grey is scaled to 8 bits (65535 is white); palettes and CMYK are converted;
- what is transparent shows white paper, as under a drawing;
- EXIF's orientation is applied to pictures of people. Frames with boxes are refused where it is not upright: no file
  says whether their boxes were drawn before the turn or after it;
- of several pictures in a file, the first counts.

A file of more than MOST_PIXELS is refused before it is decoded.
"""

from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from ..problems import InputError

Frame = NDArray[np.uint8]  # H x W x 3, RGB
Size = tuple[int, int]  # width and height in pixels
MOST_PIXELS = 1 << 26  # 8192 x 8192, 192 MiB decoded
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "GIF", "TIFF", "PPM", "JPEG2000")  # none that runs another program
_UPRIGHT = 1
_TURNS = {  # what an orientation of EXIF asks for
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SWAPPED = (5, 6, 7, 8)  # width and height


class PictureError(InputError):
    """A file that is no picture we can use: says why, but not which file."""


class Decoded(NamedTuple):
    """A picture as it is shown, and whether that swaps the file's width and height."""

    image: Image.Image  # RGB
    swapped: bool


def decode(content: bytes, *, turn: bool = True) -> Decoded:
    """A picture's file, upright. `turn` applies EXIF's orientation; without it another than upright is refused. Raises
    PictureError for all that can't be decoded."""
    with _opened(content) as image:
        orientation = _orientation(image, turn)
        image.load()
        rgb = _rgb(image)
        if orientation in _TURNS:
            rgb = rgb.transpose(_TURNS[orientation])
        return Decoded(rgb, orientation in _SWAPPED)


def measure(content: bytes, *, turn: bool = True) -> Size:
    """Width and height of a picture as `decode` gives it, from the file's header. Raises PictureError."""
    with _opened(content) as image:
        swapped = _orientation(image, turn) in _SWAPPED
        return (image.height, image.width) if swapped else (image.width, image.height)


def decode_given(content: bytes | str, where: str, *, turn: bool = True) -> Frame:
    """A picture that is given as bytes or base64. Raises InputError that says where it was."""
    try:
        raw = base64.b64decode(content, validate=True) if isinstance(content, str) else bytes(content)
        return np.asarray(decode(raw, turn=turn).image)
    except (PictureError, binascii.Error, ValueError, TypeError) as error:
        raise InputError(f"{where} must be a PNG or JPEG file, as bytes or base64: {error}") from None


@contextmanager
def _opened(content: bytes) -> Iterator[Image.Image]:
    """The picture of a file, its size checked. What Pillow raises inside, of any kind, becomes a PictureError."""
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            if image.width * image.height > MOST_PIXELS:
                size = f"{image.width} x {image.height}"
                raise PictureError(f"a picture must have at most {MOST_PIXELS / 1e6:.0f} megapixels, got {size}")
            yield image
    except PictureError:
        raise
    except (UnidentifiedImageError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        is_bomb = not isinstance(error, UnidentifiedImageError)
        limit = f"a picture must have at most {MOST_PIXELS / 1e6:.0f} megapixels: {error}"
        raise PictureError(limit if is_bomb else f"must be a picture ({', '.join(FORMATS)})") from None
    except Exception as error:  # noqa: BLE001  Pillow's readers raise whatever broken bytes lead to
        raise PictureError(str(error) or type(error).__name__) from None


def _orientation(image: Image.Image, turn: bool) -> int:
    """EXIF's orientation, 1..8. Raises PictureError where it is not upright and must be."""
    orientation = image.getexif().get(ExifTags.Base.Orientation, _UPRIGHT)
    if orientation not in _TURNS:
        return _UPRIGHT
    if not turn:
        rule = "EXIF's orientation of a frame with boxes must be 1 (upright)"
        raise PictureError(f"{rule}, got {orientation}: store the frame as its boxes were drawn, without the tag")
    return int(orientation)


def _rgb(image: Image.Image) -> Image.Image:
    """Any picture as RGB."""
    if image.mode.startswith("I"):
        return _from_16_bits(image)
    if image.mode == "F":
        raise PictureError("a picture must have 8 or 16 bits a channel, got floating point numbers")
    if image.has_transparency_data:
        paper = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(paper, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def _from_16_bits(image: Image.Image) -> Image.Image:
    """Grey of 16 bits; some files of them open as 32 bits."""
    level_HW = np.asarray(image).astype(np.int64)
    if level_HW.min() < 0 or level_HW.max() > 65535:
        raise PictureError(f"grey must be in 0..65535, got {level_HW.min()}..{level_HW.max()}")
    grey_HW = ((level_HW + 128) // 257).astype(np.uint8)
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        grey_HW[level_HW == clear] = 255
    return Image.fromarray(grey_HW).convert("RGB")
