"""Says in time that the cluster's head is gone: Ray then ends this process without a word of ours."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

import ray

from ...cluster.programs import listens

LOOK_S = 2.0
SILENT_LOOKS = 3  # in a row: one may be lost


@contextlib.contextmanager
def watched_head(sweep: str, say: Callable[[str], None]) -> Iterator[None]:
    """While open, looks whether the head answers. Ray must be connected."""
    host, _, port = str(ray.get_runtime_context().gcs_address).rpartition(":")
    over = threading.Event()

    def look() -> None:
        silent = 0
        while not over.wait(LOOK_S):
            silent = 0 if listens(host.strip("[]"), int(port)) else silent + 1
            if silent == SILENT_LOOKS:
                say(
                    f"the cluster's head at {host}:{port} does not answer; unless it comes back, Ray ends this driver "
                    f"soon: on a cluster that works, `refsweep sweep resume {sweep}` goes on"
                )

    thread = threading.Thread(target=look, name="head-watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
