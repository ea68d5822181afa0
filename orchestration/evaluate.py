"""Uses trained models: measures them on a data set, follows expressions through a video."""

from __future__ import annotations

import colorsys
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ..datasets.layouts.refer_kitti import ReferKitti
from ..datasets.problems import InputError
from ..datasets.storage.store import Store
from ..datasets.stream import Arrays, cut, default_workers, stream
from ..trainables import coercion, discovery
from ..trainables.metrics.tracking import Boxes
from ..trainables.training.package import Package


def evaluate(package: Package, data: str, split: str) -> dict[str, float]:
    """A package's figures on a split, under the post-hoc setting that travels with it. Raises InputError."""
    module = discovery.load(package.trainable)
    config = coercion.make_config(module, {**coercion.plain(package.config), **_own_weights(package.config)})
    store = Store(data) if data != "none" else None
    made = module.Task(config, module.open_data(store))
    made.model.load_state_dict(dict(package.weights))
    made.model.eval().to("cuda" if torch.cuda.is_available() else "cpu")
    made.recall(package.facts)
    parts = cut(made.plan(split, 0, config.seed), made.batch_rows(split), 0, split)
    predict = made.predictor()
    found: list[Arrays] = []
    with torch.no_grad():
        for _, arrays in stream(parts, made.read, store or Store("."), executor="threads", workers=default_workers()):
            found.append(predict(arrays))
    whole = {name: np.concatenate([f[name] for f in found]) for name in (found[0] if found else {})}
    return dict(made.examine(split, whole, package.setting))


def _own_weights(config: Mapping[str, Any]) -> dict[str, None]:
    """The package holds the weights: nothing is fetched from where they once came from."""
    return {name: None for name in ("weights", "text_weights", "init") if name in config}


def track(
    package: Package, data: str, video: str, expressions: Sequence[str], out: Path, fps: int = 10
) -> dict[str, Any]:
    """Follows expressions through a video's tracks and draws them into an MP4; what was found. Raises InputError."""
    if package.trainable != "ikun":
        raise InputError(f"tracking needs an ikun model, got {package.trainable}")
    texts = [e.strip() for e in expressions]
    if not all(texts):
        raise InputError("expression must not be empty")
    source: ReferKitti = discovery.load("ikun").open_data(Store(data))
    frames = source.n_frames(video)
    if not frames:
        raise InputError(f"no frames of video {video!r} in {data}")
    kept = discovery.load("ikun").serve(package).track(source, video, texts)
    tracked = source.tracks(video, package.config["tracks"])
    everything = Boxes(tracked.frame_N, tracked.id_N, tracked.xyxy_N4)
    write_video(_overlaid(source, video, frames, everything, dict(zip(texts, kept, strict=True))), out, fps)
    found = [
        {"expression": e, "boxes": len(b), "tracks": len(set(b.id_N.tolist())), "frames": len(set(b.frame_N.tolist()))}
        for e, b in zip(texts, kept, strict=True)
    ]
    return {"video": video, "frames": frames, "out": str(out), "found": found}


def _overlaid(
    source: ReferKitti, video: str, frames: int, everything: Boxes, kept: Mapping[str, Boxes]
) -> Iterator[NDArray[np.uint8]]:
    """Frames, every tracked box thin and grey, what an expression means in its colour, with its track's id."""
    for number in range(frames):
        frame = source.frames.get(source.store, source.frame_path(video, number))
        grow = max(1, round(960 / frame.shape[1]))
        image = Image.fromarray(frame).resize((frame.shape[1] * grow, frame.shape[0] * grow), Image.Resampling.BICUBIC)
        banner = 18 * len(kept)
        page = Image.new("RGB", (image.width, image.height + banner), (16, 16, 20))
        page.paste(image, (0, banner))
        draw = ImageDraw.Draw(page)
        font = ImageFont.load_default(13)
        for box in everything.xyxy_N4[everything.frame_N == number]:
            draw.rectangle(_moved(box, grow, banner), outline=(150, 150, 150), width=1)
        for line, (expression, boxes) in enumerate(kept.items()):
            colour = _colour(line)
            here = boxes.take(boxes.frame_N == number)
            draw.text((4, 18 * line + 1), f"{expression}: {len(here)}", fill=colour, font=font)
            for identity, box in zip(here.id_N, here.xyxy_N4, strict=True):
                place = _moved(box, grow, banner)
                inset = 3 * line  # two expressions may mean one box
                draw.rectangle(
                    [place[0] + inset, place[1] + inset, place[2] - inset, place[3] - inset], outline=colour, width=2
                )
                draw.text((place[0] + 2, place[1] - 15), str(identity), fill=colour, font=font)
        yield np.asarray(page)


def _moved(box: NDArray[np.float64], grow: int, down: int) -> list[float]:
    x1, y1, x2, y2 = (float(v) * grow for v in box)
    return [x1, y1 + down, max(x2, x1 + 7), max(y2, y1 + 7) + down]


def _colour(index: int) -> tuple[int, int, int]:
    red, green, blue = colorsys.hsv_to_rgb((0.09 + index * 0.38) % 1.0, 0.85, 1.0)
    return int(255 * red), int(255 * green), int(255 * blue)


def write_video(frames: Iterator[NDArray[np.uint8]], out: Path, fps: int) -> None:
    """An H.264 MP4 that browsers play, from H x W x 3 frames of one size; odd sizes lose a row or column."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(out), "w") as container:
        video = None
        for frame in frames:
            height, width = frame.shape[0] // 2 * 2, frame.shape[1] // 2 * 2
            if video is None:
                video = container.add_stream("libx264", rate=Fraction(fps))
                video.width, video.height, video.pix_fmt = width, height, "yuv420p"
                video.options = {"crf": "20", "preset": "veryfast", "movflags": "+faststart"}
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame[:height, :width]), format="rgb24")
            container.mux(video.encode(picture))
        if video is not None:
            container.mux(video.encode())
