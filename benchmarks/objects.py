"""Frames from object storage against a folder, in single files and packed: packing, reading, and whole streams.

The S3 server is rclone on loopback: what is measured is what requests cost here, not a network's latency.
`LATENCY_S` adds one to each request for the rows that say so, as of a store in the same region.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..datasets.frames.cache import FrameCache, open_frames
from ..datasets.frames.pack import Packing, pack
from ..datasets.layouts.refer_kitti import FRAMES, ReferKitti
from ..datasets.made.refer_kitti import Recipe, make
from ..datasets.storage.s3 import Bucket
from ..datasets.storage.store import Store
from ..datasets.stream import Part, cut, default_workers, stream
from ..orchestration.execution.ray_start import ray_in_background
from ..trainables.ikun.config import Config
from ..trainables.ikun.data import Reader, TrainingSet, training_plan
from .common import publish
from .servers import s3
from .streaming import timed

BATCH, EPOCHS, THREADS, LATENCY_S = 8, 2, 8, 0.03
SMALL_PX = 672  # what iKUN looks at of a whole frame
KINDS = {"loose": "single files", "packed": "packed", "small": f"packed, {SMALL_PX} px"}


def main() -> None:
    """A made data set of 160 frames of 1242 x 375, its pack, and its pack shrunk to 672 pixels."""
    with tempfile.TemporaryDirectory() as folder, s3(Path(folder), "data"):
        loose = Store(f"{folder}/data/loose")
        make(loose, Recipe(videos=4, frames=40, width=1242, seed=1))
        remote = Store("s3://data/loose")
        for path, _ in loose.walk():
            remote.write(path, loose.read(path))
        paths = [path for path, _ in loose.walk(FRAMES)]
        publish("objects_pack", f"data pack of {len(paths)} frames, {THREADS} threads", _packing(loose, folder))
        where = {"folder": f"{folder}/data", "S3": "s3://data"}
        frames = [f"{FRAMES}/{path}" for path in paths]
        publish("objects_read", f"reading image files, {THREADS} threads, nothing decoded", _reading(where, frames))
        parts, rows = _parts(loose)
        workers = default_workers()
        title = f"stream of {rows} windows of 2 frames 1242 x 375, {workers} workers, batches of {BATCH}"
        publish("objects_stream", title, _streams(where, parts, rows, workers))


def _packing(loose: Store, folder: str) -> list[dict[str, Any]]:
    """Packs to the folder and to S3."""
    rows = []
    for kind, options in (("packed", Packing()), ("small", Packing(frame_px=SMALL_PX))):
        for place in (f"{folder}/data", "s3://data"):
            done = pack(loose, Store(f"{place}/{kind}"), options, threads=THREADS)
            row = {"frames": KINDS[kind], "to": "S3" if place.startswith("s3:") else "folder"}
            rows.append({**row, "frames/s": done["frames"] / done["s"], "MB": done["mb"]})
    return rows


def _reading(where: dict[str, str], frames: Sequence[str]) -> list[dict[str, Any]]:
    """Frames a second in their order, as scoring reads, and in random order, as training does."""
    shuffled = random.Random(0).sample(frames, len(frames))
    cases = [(p, f, 0.0) for p in where for f in KINDS]
    cases += [("S3", f, LATENCY_S) for f in KINDS]
    rows = []
    for place, kind, latency in cases:
        with _slowed(latency):
            rates = [_rate(Store(f"{where[place]}/{kind}"), order) for order in (frames, shuffled)]
        name = f"{place}, {1000 * latency:.0f} ms added a request" if latency else place
        rows.append({"from": name, "frames": KINDS[kind], "in order, 1/s": rates[0], "shuffled, 1/s": rates[1]})
    return rows


def _rate(store: Store, order: Sequence[str]) -> float:
    source = open_frames(store)
    source.read(order[0])  # connects
    began = time.perf_counter()
    with ThreadPoolExecutor(THREADS) as pool:
        for _ in pool.map(source.read, order):
            pass
    return len(order) / (time.perf_counter() - began)


def _parts(loose: Store) -> tuple[list[Part], int]:
    data = ReferKitti(loose)
    tracks = TrainingSet(data, data.videos("train"), 8).tracks
    plans = [training_plan(tracks, Config(windows_per_track=4), np.random.default_rng(e)) for e in range(EPOCHS)]
    parts = [p for epoch, plan in enumerate(plans) for p in cut(plan, BATCH, epoch, "train")]
    return parts, sum(p.rows.num_rows for p in parts)


def _streams(where: dict[str, str], parts: list[Part], rows: int, workers: int) -> list[dict[str, Any]]:
    read, measured = Reader(224, SMALL_PX, FrameCache(0)), list[dict[str, Any]]()

    def measure(executor: str) -> None:
        for place, uri in where.items():
            for kind, name in KINDS.items():
                store = Store(f"{uri}/{kind}")
                seconds, first, _ = timed(stream(parts, read, store, executor=executor, workers=workers))  # type: ignore[arg-type]
                row = {"executor": executor, "from": place, "frames": name, "rows/s": rows / seconds}
                base = next((r["rows/s"] for r in measured if r["executor"] == executor), rows / seconds)
                measured.append({**row, "of single files in a folder": rows / seconds / base, "first batch, s": first})

    measure("threads")
    with ray_in_background() as connected:
        connected()
        for _ in stream(parts[:4], read, Store(f"{where['folder']}/loose"), executor="ray", workers=workers):
            pass  # the first stream of a process starts Ray's workers
        measure("ray")
    return measured


@contextmanager
def _slowed(latency_s: float) -> Iterator[None]:
    """Every request for an object waits this long first."""
    kept = Bucket.read, Bucket.read_range

    def later(act: Callable[..., bytes]) -> Callable[..., bytes]:
        def slow(*words: Any) -> bytes:
            time.sleep(latency_s)
            return act(*words)

        return slow

    if latency_s:
        Bucket.read, Bucket.read_range = later(kept[0]), later(kept[1])  # type: ignore[method-assign]
    try:
        yield
    finally:
        Bucket.read, Bucket.read_range = kept  # type: ignore[method-assign]
