"""Follows expressions through a video's tracks, and draws what they mean."""

from __future__ import annotations

import colorsys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ...datasets.layouts.refer_kitti import ReferKitti, normalise
from ...datasets.problems import InputError
from ...datasets.stream import cut, default_workers, stream
from ..contract import Tracked
from ..metrics.tracking import Boxes
from ..training.package import Package
from .baselines import KINDS
from .data import Reader, scoring_plan, videos_of
from .predict import WindowScores
from .serve import WindowScorer, serve
from .truth import TrackedVideo

WIDTH_PX = 960  # smaller frames are enlarged to about this
LINE_PX, TEXT_PX, INSET_PX, SMALLEST_PX = 18, 13, 3, 7
BACKGROUND, EVERY_BOX = (16, 16, 20), (150, 150, 150)
Corners = tuple[float, float, float, float]  # x1, y1, x2, y2


def track(package: Package, data: ReferKitti, video: str, expressions: Sequence[str]) -> Tracked:
    """For each expression the tracker boxes of a video that it means. Raises InputError when there is no such video."""
    frames = data.n_frames(video)
    if not frames:
        raise InputError(f"no frames of video {video!r} in {data.store.uri}")
    scorer = serve(package)
    tracked = TrackedVideo.read(data, video, scorer.config, expressions)
    kept = [tracked.tracked.take(mask) for mask in kept_boxes(scorer, data, tracked)]
    rows = [
        {"expression": e, "boxes": len(b), "tracks": len(set(b.id_N.tolist())), "frames": len(set(b.frame_N.tolist()))}
        for e, b in zip(expressions, kept, strict=True)
    ]
    by_expression = dict(zip(expressions, kept, strict=True))
    return Tracked(frames=frames, rows=rows, draw=lambda: overlaid(data, tracked, by_expression))


def kept_boxes(scorer: WindowScorer, data: ReferKitti, video: TrackedVideo) -> NDArray[np.bool_]:
    """Which boxes of a video each of its expressions means, P x N: those that score above its threshold."""
    c = scorer.config
    predict = WindowScores(scorer.model, lambda _: video)
    plan = scoring_plan(video.video, video.tracked, video.windows, video.geometry_N8)
    parts, reader = cut(plan, c.score_batch, 0, "track"), Reader(c.crop_px, c.frame_px, data.frames)
    batches = stream(parts, reader, data.store, executor="threads", workers=default_workers())
    scores = [predict(arrays)["score"] for _, arrays in batches]
    score_WE = np.concatenate([*scores, np.zeros(0, np.float32)]).reshape(len(video.windows), len(video.texts))
    return video.scores_PN(score_WE) > scorer.thresholds(video.raw)[:, None]


def track_example(data: ReferKitti) -> tuple[str, list[str]]:
    """A test video and two of its expressions, one of colour and one of direction, those that mean most boxes."""
    for video in data.videos("test"):
        chosen = []
        for kind in ("colour", "direction"):
            of_kind = [e for e in data.expressions(video) if KINDS[kind] & set(normalise(e).split())]
            if of_kind:
                chosen.append(max(of_kind, key=lambda e: sum(map(len, data.referred(video, e).values()))))
        if len(chosen) == 2:
            return video, [e.replace("-", " ") for e in chosen]
    video = videos_of(data, "test")[0]
    return video, [e.replace("-", " ") for e in data.expressions(video)[:2]]


def overlaid(data: ReferKitti, video: TrackedVideo, kept: Mapping[str, Boxes]) -> Iterator[NDArray[np.uint8]]:
    """Frames, H x W x 3: every tracked box thin and grey, the boxes of an expression in its colour with their track's
    id, and above them how many each expression has."""
    font = ImageFont.load_default(TEXT_PX)
    for number in range(data.n_frames(video.video)):
        frame = data.frames.get(data.store, data.frame_path(video.video, number))
        grow = max(1, round(WIDTH_PX / frame.shape[1]))
        size = (frame.shape[1] * grow, frame.shape[0] * grow)
        banner = LINE_PX * len(kept)
        page = Image.new("RGB", (size[0], size[1] + banner), BACKGROUND)
        page.paste(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC), (0, banner))
        paper = ImageDraw.Draw(page)
        for box in video.tracked.xyxy_N4[video.tracked.frame_N == number]:
            paper.rectangle(_placed(box, grow, banner), outline=EVERY_BOX, width=1)
        for line, (expression, boxes) in enumerate(kept.items()):
            here = boxes.take(boxes.frame_N == number)
            paper.text((4, LINE_PX * line + 1), f"{expression}: {len(here)}", fill=_colour(line), font=font)
            for identity, box in zip(here.id_N, here.xyxy_N4, strict=True):
                _draw_box(paper, _placed(box, grow, banner), str(identity), line, font)
        yield np.asarray(page)


def _draw_box(paper: ImageDraw.ImageDraw, box: Corners, identity: str, line: int, font: Any) -> None:
    """A box of the expression of a line of the banner."""
    x1, y1, x2, y2 = box
    colour, inset = _colour(line), INSET_PX * line  # two expressions may mean one box
    paper.rectangle([x1 + inset, y1 + inset, x2 - inset, y2 - inset], outline=colour, width=2)
    paper.text((x1 + 2, y1 - 15), identity, fill=colour, font=font)


def _placed(box: NDArray[np.float64], grow: int, down: int) -> Corners:
    """A box in pixels of an enlarged frame that lies lower on its page; tiny ones are drawn larger."""
    x1, y1, x2, y2 = (float(v) * grow for v in box)
    return x1, y1 + down, max(x2, x1 + SMALLEST_PX), max(y2, y1 + SMALLEST_PX) + down


def _colour(index: int) -> tuple[int, int, int]:
    red, green, blue = colorsys.hsv_to_rgb((0.09 + index * 0.38) % 1.0, 0.85, 1.0)
    return int(255 * red), int(255 * green), int(255 * blue)
