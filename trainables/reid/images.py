"""Pictures of people: read, cut, mirrored and erased as a plan says, at one size.

Everything random is drawn in the plan, as columns; reading is pure.

Shapes: N rows, H x W pixels, 3 bytes each, RGB.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image

from ...datasets.frames.cache import WHOLE, Frame, FrameCache
from ...datasets.storage.store import Store
from .config import ReidConfig

_GREY = 128


def draw_augmentation(config: ReidConfig, rows: int, rng: Generator) -> dict[str, pa.Array]:
    """How each of some training pictures is varied, as columns `flip`, `window` and `erased`; the latter two are left,
    top, width and height in shares of the picture. The same generator gives the same columns."""
    kept_N2 = 1 - config.crop * rng.random((rows, 2))
    window_N4 = np.concatenate([rng.random((rows, 2)) * (1 - kept_N2), kept_N2], 1)
    area_N, ratio_N = rng.uniform(0.02, 0.3, rows), np.exp(rng.uniform(-1, 1, rows))
    size_N2 = np.minimum(np.stack([np.sqrt(area_N * ratio_N), np.sqrt(area_N / ratio_N)], 1), 1)
    erased_N4 = np.concatenate([rng.random((rows, 2)) * (1 - size_N2), size_N2], 1)
    erased_N4 *= (rng.random(rows) < config.erase)[:, None]
    return {
        "flip": pa.array(rng.random(rows) < config.flip),
        "window": _fours(window_N4),
        "erased": _fours(erased_N4),
    }


@dataclass(frozen=True, slots=True)
class ImageReader:
    """Pictures of a plan's rows, all resized to one size. Decoded files stay in `frames`."""

    height_px: int
    width_px: int
    frames: FrameCache

    def __call__(self, rows: pa.Table, store: Store) -> NDArray[np.uint8]:
        """N x H x W x 3 of the column `path`, varied as the columns of `draw_augmentation` say where there are any;
        an empty path gives black. Raises DataError for a file that is missing or won't decode."""
        image_NHW3 = np.zeros((rows.num_rows, self.height_px, self.width_px, 3), np.uint8)
        varied = "window" in rows.column_names
        window_N4 = _matrix(rows, "window") if varied else None
        erased_N4 = _matrix(rows, "erased") if varied else None
        flip_N = rows.column("flip").to_pylist() if varied else [False] * rows.num_rows
        for row, path in enumerate(rows.column("path").to_pylist()):
            if path:
                window = WHOLE if window_N4 is None else window_N4[row]
                image = self.resized(self.frames.get(store, path), window)
                image_NHW3[row] = image[:, ::-1] if flip_N[row] else image
                if erased_N4 is not None:
                    _erase(image_NHW3[row], erased_N4[row])
        return image_NHW3

    def resized(self, frame: Frame, window: NDArray[np.float64] | tuple[float, ...] = WHOLE) -> Frame:
        """A window (shares: left, top, width, height) of a picture, H x W x 3."""
        height, width = frame.shape[:2]
        left, top, wide, high = window
        right, bottom = min(1.0, left + wide), min(1.0, top + high)
        box = (left * width, top * height, right * width, bottom * height)
        whole = Image.fromarray(frame)
        return np.asarray(whole.resize((self.width_px, self.height_px), Image.Resampling.BILINEAR, box=box))


def _erase(image_HW3: Frame, part: NDArray[np.float64]) -> None:
    height, width = image_HW3.shape[:2]
    left, top, right, bottom = (part[0], part[1], part[0] + part[2], part[1] + part[3])
    image_HW3[round(top * height) : round(bottom * height), round(left * width) : round(right * width)] = _GREY


def _fours(array_N4: NDArray[np.float64]) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(array_N4).reshape(-1)), 4)


def _matrix(rows: pa.Table, name: str) -> NDArray[np.float64]:
    column = rows.column(name).combine_chunks()
    return np.asarray(column.flatten().to_numpy(zero_copy_only=False)).reshape(rows.num_rows, 4)
