"""The stream: two executors, one result; restart at any part; errors at their place."""

from __future__ import annotations

import threading
import time

import numpy as np
import pyarrow as pa
import pytest
from refsweep.datasets.problems import DataError, Problem
from refsweep.datasets.storage.store import Store
from refsweep.datasets.stream import Arrays, Part, cut, stream


@pytest.fixture(params=["threads", "ray"])
def executor(request: pytest.FixtureRequest) -> str:
    if request.param == "ray":
        request.getfixturevalue("ray_local")
    return str(request.param)


def read(rows: pa.Table, store: Store) -> Arrays:
    """Ragged on purpose: row r gives r % 3 boxes; later rows are quicker than earlier ones."""
    number = rows.column("row").to_numpy()
    time.sleep(0.002 * float(number[0] % 5))
    count = number % 3
    return {
        "row": number.astype(np.int64),
        "square": (number[:, None, None] * np.ones((1, 4, 2))).astype(np.float32),
        "box": np.repeat(number, count).astype(np.uint8).reshape(-1, 1),
    }


def plan(epochs: int = 3, rows: int = 22, batch: int = 4) -> list[Part]:
    parts = []
    for epoch in range(epochs):
        order = np.random.default_rng(epoch).permutation(rows)
        parts += cut(pa.table({"row": order}), batch, epoch, "train")
        parts += cut(pa.table({"row": np.arange(5)}), 2, epoch, "validation")
    return parts


def collect(parts: list[Part], executor: str) -> list[tuple[Part, Arrays]]:
    return list(stream(parts, read, Store("."), executor=executor, workers=2))


def test_cut_gives_every_row_once_and_marks_the_last():
    parts = cut(pa.table({"row": np.arange(10)}), 4, 7, "train")
    assert [p.rows.column("row").to_pylist() for p in parts] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert [(p.epoch, p.index, p.last) for p in parts] == [(7, 0, False), (7, 1, False), (7, 2, True)]
    assert cut(pa.table({"row": np.arange(0)}), 4, 0, "train") == []


def test_order_rows_and_arrays_are_those_of_a_plain_loop(executor: str):
    parts = plan()
    got = collect(parts, executor)
    assert [place for place, _ in got] == [part.place for part in parts]
    for part, (_, arrays) in zip(parts, got, strict=True):
        want = read(part.rows, Store("."))
        assert arrays.keys() == want.keys()
        for name, array in want.items():
            assert arrays[name].dtype == array.dtype
            np.testing.assert_array_equal(arrays[name], array)


def test_starting_later_gives_what_the_whole_gives_from_there_on(executor: str):
    parts = plan()
    whole = collect(parts, executor)
    for start in (1, 7, len(parts) - 1):
        for (a, x), (b, y) in zip(collect(parts[start:], executor), whole[start:], strict=True):
            assert a == b
            np.testing.assert_array_equal(x["row"], y["row"])
    assert collect([], executor) == []


def test_one_pool_serves_all_epochs():
    """No thread starts after the first batches: the same two read the last epoch."""
    names: list[set[str]] = []

    def who(rows: pa.Table, _: Store) -> Arrays:
        time.sleep(0.001)
        return {"thread": np.array([threading.current_thread().name])}

    for place, arrays in stream(plan(), who, Store("."), executor="threads", workers=2):
        if place.index == 0 and place.split == "train":
            names.append(set())
        names[-1] |= set(arrays["thread"].tolist())
    assert names[0] == names[1] == names[2]


def test_reading_ahead_is_bounded():
    started: list[int] = []

    def note(rows: pa.Table, _: Store) -> Arrays:
        started.append(1)
        return {"row": rows.column("row").to_numpy()}

    coming = stream(plan(), note, Store("."), executor="threads", workers=2)
    next(coming)
    time.sleep(0.1)
    assert len(started) <= 5


def test_an_error_of_read_reaches_the_reader_at_its_part(executor: str):
    def fail(rows: pa.Table, store: Store) -> Arrays:
        if 21 in rows.column("row").to_pylist():
            raise DataError([Problem("frame 21", "won't decode")])
        return read(rows, store)

    parts = plan(epochs=1)
    coming = stream(parts, fail, Store("."), executor=executor, workers=2)
    with pytest.raises(Exception, match="frame 21: won't decode"):
        list(coming)


def test_closing_the_stream_stops_its_threads():
    before = threading.active_count()
    coming = stream(plan(), read, Store("."), executor="threads", workers=2)
    next(coming)
    coming.close()  # type: ignore[attr-defined]
    for _ in range(50):
        if threading.active_count() <= before:
            break
        time.sleep(0.02)
    assert threading.active_count() <= before
