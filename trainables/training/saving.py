"""Saves checkpoints: at once in a folder; into object storage while training goes on."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from torch import Tensor

from .checkpoints import Checkpoints, Name, packed


class Saver:
    """Where a training's checkpoints go. One is on its way at most; its content is that of the moment of `save`."""

    def __init__(self, checkpoints: Checkpoints | None) -> None:
        """None: nothing is kept."""
        self._checkpoints = checkpoints
        self._in_background = checkpoints is not None and not checkpoints.store.is_local
        self._pool: ThreadPoolExecutor | None = None
        self._coming: Future[None] | None = None

    def save(
        self,
        name: Name,
        model: Mapping[str, Tensor],
        state: Mapping[str, Any],
        manifest: Mapping[str, Any],
        keep: set[int],
    ) -> None:
        """Takes a checkpoint; see `Checkpoints.save`."""
        if self._checkpoints is None:
            return
        files = packed(model, state)
        if not self._in_background:
            self._checkpoints.write(name, files, manifest, keep)
            return
        self.wait()
        self._pool = self._pool or ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._coming = self._pool.submit(self._checkpoints.write, name, files, manifest, keep)

    @property
    def landed(self) -> bool:
        """Whether all that was saved is where it belongs. Raises what prevented it."""
        if self._coming is None:
            return True
        if self._coming.done():
            self.wait()
            return True
        return False

    def wait(self) -> None:
        """Until it is. Raises what prevented it."""
        if self._coming is not None:
            coming, self._coming = self._coming, None
            coming.result()

    def close(self) -> None:
        """Waits for nothing more: what has not landed by now is finished or lost with the process."""
        if self._pool is not None:
            self._pool.shutdown(wait=False)
