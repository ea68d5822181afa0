"""A least-recently-used cache bounded in bytes; threads that ask for one key make its value once."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Generic, TypeVar

V = TypeVar("V")


class Lru(Generic[V]):
    """The most recently used values, up to `most_bytes`; the last one is kept however large it is."""

    def __init__(self, most_bytes: int, weigh: Callable[[V], int]) -> None:
        self.most_bytes = most_bytes
        self.bytes = 0
        self._weigh = weigh
        self._kept: OrderedDict[Hashable, V] = OrderedDict()
        self._pending: dict[Hashable, Future[V]] = {}
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], V]) -> V:
        """The value of a key, made if it is not kept; threads that ask meanwhile wait. Raises what `make` does."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
            pending = self._pending.get(key)
            if pending is None:
                mine = self._pending[key] = Future()
        if pending is not None:
            return pending.result()
        try:
            value = make()
        except BaseException as error:
            with self._lock:
                del self._pending[key]
            mine.set_exception(error)
            raise
        with self._lock:
            del self._pending[key]
            self._kept[key] = value
            self.bytes += self._weigh(value)
            while self.bytes > self.most_bytes and len(self._kept) > 1:
                self.bytes -= self._weigh(self._kept.popitem(last=False)[1])
        mine.set_result(value)
        return value
