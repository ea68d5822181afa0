"""A plan in, batches out: the same rows in the same order as the same arrays, whichever executor reads them.

A plan is a sequence of `Part`s, each the rows of one batch. Two executors run the task's `read` on them:
a pool of threads in this process, and Ray Data on a cluster. Either runs once for all epochs, so that no
pipeline starts anew between them, and a plan cut off at its beginning gives what the whole one gives from
there on.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from .storage.store import Store

Arrays = dict[str, NDArray[Any]]
Read = Callable[[pa.Table, Store], Arrays]
Executor = Literal["threads", "ray"]


@dataclass(frozen=True, slots=True)
class Part:
    """One batch of a plan."""

    epoch: int
    split: str
    index: int  # in its epoch and split, from 0
    last: bool  # of its epoch and split
    rows: pa.Table
    count: int = 0  # rows of the whole batch, of which a worker of several has its share

    @property
    def place(self) -> Part:
        """The same without its rows."""
        return replace(self, rows=None)


def cut(plan: pa.Table, batch_rows: int, epoch: int, split: str) -> list[Part]:
    """The batches of an epoch's plan; the last one may be smaller."""
    starts = range(0, plan.num_rows, batch_rows)
    slices = [plan.slice(start, batch_rows) for start in starts]
    return [Part(epoch, split, i, i == len(slices) - 1, rows, rows.num_rows) for i, rows in enumerate(slices)]


def stream(
    parts: Iterable[Part], read: Read, store: Store, *, executor: Executor, workers: int
) -> Iterator[tuple[Part, Arrays]]:
    """(place, arrays) of each part, in order. `workers` threads or Ray tasks read ahead.

    Closing the iterator stops the readers. An error of `read` is raised at the part it belongs to.
    """
    if executor == "ray":
        return _through_ray(list(parts), read, store, workers)
    return _through_threads(parts, read, store, workers)


def _through_threads(parts: Iterable[Part], read: Read, store: Store, workers: int) -> Iterator[tuple[Part, Arrays]]:
    ahead = 2 * workers
    waiting = iter(parts)
    pool = ThreadPoolExecutor(workers, thread_name_prefix="stream")
    pending: deque[tuple[Part, Future[Arrays]]] = deque()
    try:
        for part in islice(waiting, ahead):
            pending.append((part.place, pool.submit(read, part.rows, store)))
        while pending:
            place, future = pending.popleft()
            arrays = future.result()
            for part in islice(waiting, 1):
                pending.append((part.place, pool.submit(read, part.rows, store)))
            yield place, arrays
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _through_ray(parts: list[Part], read: Read, store: Store, workers: int) -> Iterator[tuple[Part, Arrays]]:
    """Ray Data, one row a batch: its plan rows as Arrow bytes go in, its arrays come out as tensors of one row.

    Rows of several parts share a task so that a task is worth its start.
    """
    import ray

    if not parts:
        return
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    table = pa.table({"rows": pa.array([_to_bytes(part.rows) for part in parts], pa.large_binary())})
    per_task = max(1, min(_PARTS_PER_TASK, len(parts) // max(1, 2 * workers)))
    blocks = [table.slice(i, per_task) for i in range(0, len(parts), per_task)]
    data = ray.data.from_arrow(blocks).map_batches(
        _ReadParts(read, store), batch_size=None, num_cpus=1, concurrency=workers, zero_copy_batch=True
    )
    batches = data.iter_batches(batch_size=1, batch_format="pyarrow", prefetch_batches=2)
    for part, batch in zip(parts, batches, strict=True):
        yield part.place, _to_arrays(batch)


_PARTS_PER_TASK = 4


def _to_bytes(rows: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows)
    return bytes(sink.getvalue())


@dataclass(frozen=True, slots=True)
class _ReadParts:
    """What a Ray task runs: `read` on the rows of each part in its block."""

    read: Read
    store: Store

    def __call__(self, block: Any) -> pa.Table:
        batches = []
        for raw in block["rows"]:
            with pa.ipc.open_stream(raw) as reader:
                batches.append(self.read(reader.read_all(), self.store))
        return _to_table(batches)


def _to_table(batches: list[Arrays]) -> pa.Table:
    """One row a batch: for each array its bytes, and its shape and type."""
    columns: dict[str, Any] = {}
    for name in batches[0]:
        arrays = [np.ascontiguousarray(a[name]) for a in batches]
        columns[name] = pa.array([a.tobytes() for a in arrays], pa.large_binary())
        columns[f"{name}:shape"] = pa.array([list(a.shape) for a in arrays], pa.list_(pa.int64()))
        columns[f"{name}:type"] = pa.array([a.dtype.str for a in arrays])
    return pa.table(columns)


def _to_arrays(batch: pa.Table) -> Arrays:
    arrays: Arrays = {}
    for name in batch.column_names:
        if f"{name}:shape" in batch.column_names:
            shape = batch.column(f"{name}:shape")[0].as_py()
            kind = np.dtype(batch.column(f"{name}:type")[0].as_py())
            arrays[name] = np.frombuffer(batch.column(name)[0].as_buffer(), kind).reshape(shape)
    return arrays


def default_workers() -> int:
    """Threads that read ahead: one a core this process may use, at most eight."""
    return min(8, len(os.sched_getaffinity(0)))
