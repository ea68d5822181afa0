"""Saves checkpoints: at once in a folder; into object storage while training goes on."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from torch import Tensor

from .checkpoints import Checkpoints, Name, packed


class Saver:
    """Writes a training's checkpoints, one at a time. Each holds what its training was at the moment of `save`."""

    def __init__(self, checkpoints: Checkpoints | None) -> None:
        """None: nothing is kept."""
        self._checkpoints = checkpoints
        self._in_background = checkpoints is not None and not checkpoints.store.is_local
        self._pool: ThreadPoolExecutor | None = None
        self._pending: Future[None] | None = None

    def save(
        self,
        name: Name,
        model: Mapping[str, Tensor],
        state: Mapping[str, Any],
        fields: Mapping[str, Any],
        keep: set[int],
    ) -> None:
        """Writes a checkpoint of a model's weights and of the rest of a training's state, as `Checkpoints.write` does.
        Raises what prevented the one before it, or this one, where it is written at once."""
        if self._checkpoints is None:
            return
        files = packed(model, state)
        if not self._in_background:
            self._checkpoints.write(name, files, fields, keep)
            return
        self.wait()
        self._pool = self._pool or ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending = self._pool.submit(self._checkpoints.write, name, files, fields, keep)

    @property
    def is_idle(self) -> bool:
        """Whether every checkpoint is written. Raises what prevented the last one."""
        if self._pending is None:
            return True
        if self._pending.done():
            self.wait()
            return True
        return False

    def wait(self) -> None:
        """Returns once every checkpoint is written. Raises what prevented the last one."""
        if self._pending is not None:
            pending, self._pending = self._pending, None
            pending.result()

    def close(self) -> None:
        """Starts no more writes and does not wait: one that is under way ends by itself, or with the process."""
        if self._pool is not None:
            self._pool.shutdown(wait=False)
