"""Rows a second through both executors, against a bare thread pool that calls the same `read`; start-up times."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from ..datasets.frames.cache import FrameCache
from ..datasets.layouts.refer_kitti import ReferKitti
from ..datasets.made.refer_kitti import Recipe, make
from ..datasets.storage.store import Store
from ..datasets.stream import Part, cut, default_workers, stream
from ..orchestration.execution.ray_start import ray_in_background
from ..trainables.ikun.config import Config
from ..trainables.ikun.data import Reader, TrainingSet, training_plan
from .common import publish

BATCH, EPOCHS = 8, 6


def main() -> None:
    """Windows at the published sizes: two frames of 1242 x 375 decoded, crops of 224, frames of 672 pixels."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        make(store, Recipe(videos=4, frames=40, width=1242, seed=1))
        data = ReferKitti(store)
        tracks = TrainingSet(data, data.videos("train"), 8).tracks
        config = Config(windows_per_track=4)
        parts = [
            p
            for epoch in range(EPOCHS)
            for p in cut(training_plan(tracks, config, np.random.default_rng(epoch)), BATCH, epoch, "train")
        ]
        read = Reader(224, 672, FrameCache(0))
        rows = sum(p.rows.num_rows for p in parts)
        workers = default_workers()
        bare = _bare(parts, read, store, workers)
        threads, start_threads, gaps_threads = timed(stream(parts, read, store, executor="threads", workers=workers))
        with ray_in_background() as connected:
            began = time.perf_counter()
            connected()
            start_ray = time.perf_counter() - began
            _, cold, _ = timed(stream(parts[:4], read, store, executor="ray", workers=workers))
            ray, warm, gaps_ray = timed(stream(parts, read, store, executor="ray", workers=workers))
    measured = [
        {
            "executor": "bare thread pool",
            "rows/s": rows / bare,
            "share": 1.0,
            "target": "",
            "longest gap between epochs, s": 0.0,
        },
        {
            "executor": "threads",
            "rows/s": rows / threads,
            "share": bare / threads,
            "target": ">= 0.95",
            "longest gap between epochs, s": gaps_threads,
        },
        {
            "executor": "Ray Data",
            "rows/s": rows / ray,
            "share": bare / ray,
            "target": ">= 0.75",
            "longest gap between epochs, s": gaps_ray,
        },
    ]
    publish(
        "stream",
        f"stream, {workers} workers, {rows} windows of 2 frames 1242 x 375, batches of {BATCH}, {EPOCHS} epochs",
        measured,
    )
    starts = [
        {"start": "threads, first batch", "s": start_threads},
        {"start": "Ray itself", "s": start_ray},
        {"start": "Ray Data, first batch, first stream of a process", "s": cold},
        {"start": "Ray Data, first batch, later streams", "s": warm},
    ]
    publish("stream_start", "start-up of streams", starts)


def _bare(parts: list[Part], read: Any, store: Store, workers: int) -> float:
    """The same reads by a pool and nothing else."""
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(lambda p: read(p.rows, store)["label"].sum(), parts[:4]))
        began = time.perf_counter()
        for _ in pool.map(lambda p: float(read(p.rows, store)["label"].sum()), parts):
            pass
        return time.perf_counter() - began


def timed(batches: Iterator[Any]) -> tuple[float, float, float]:
    """(seconds from the first batch's request to the last, seconds to the first, longest wait at an epoch's start).

    The whole time less what the first batch took more than the average.
    """
    began = last = time.perf_counter()
    first = gap = 0.0
    epoch, count = 0, 0
    for place, arrays in batches:
        float(arrays["label"].sum())
        now = time.perf_counter()
        first = first or now - began
        if place.epoch != epoch:
            epoch, gap = place.epoch, max(gap, now - last)
        last = now
        count += 1
    steady = (last - began - first) / max(count - 1, 1)
    return last - began - first + steady, first, gap
