"""The cache bounded in bytes: what it keeps, and that a value is made once however many threads ask."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from refsweep.datasets.storage.lru import Lru


def test_what_is_kept_is_bounded_and_the_last_always_kept():
    lru: Lru[bytes] = Lru(100, len)
    for i in range(50):
        assert lru.get(i, lambda i=i: bytes([i]) * 30) == bytes([i]) * 30  # type: ignore[misc]
        assert lru.bytes <= 100
    assert lru.get("large", lambda: bytes(500)) == bytes(500)
    assert lru.bytes == 500
    lru.get(0, lambda: b"again")
    assert lru.bytes == 5


def test_threads_that_ask_for_one_value_make_it_once_and_share_its_error():
    lru: Lru[int] = Lru(100, lambda _: 1)
    made, gate = [], threading.Event()

    def make() -> int:
        gate.wait(5)
        made.append(1)
        if len(made) == 1:
            raise OSError("no")
        return 7

    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(lru.get, "a", make) for _ in range(4)]
        gate.set()
        errors = [f.exception() for f in asked]
    assert any(isinstance(e, OSError) for e in errors)
    assert lru.get("a", make) == 7
    assert lru.get("a", lambda: 8) == 7
