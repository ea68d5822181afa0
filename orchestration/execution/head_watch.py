"""Warns that the cluster's head is gone, before Ray ends this process without a message of ours."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

import ray

from ...cluster.programs import listens

HEAD_POLL_S = 2.0
SILENT_POLLS = 3  # in a row: one answer may be lost


@contextlib.contextmanager
def watched_head(sweep: str, tell: Callable[[str], None]) -> Iterator[None]:
    """While open, checks that the head answers, and tells when it does not. Ray must be connected."""
    host, _, port = str(ray.get_runtime_context().gcs_address).rpartition(":")
    closed = threading.Event()

    def look() -> None:
        silent = 0
        while not closed.wait(HEAD_POLL_S):
            silent = 0 if listens(host.strip("[]"), int(port)) else silent + 1
            if silent == SILENT_POLLS:
                tell(
                    f"the cluster's head at {host}:{port} does not answer; unless it comes back, Ray ends this driver "
                    f"soon: on a cluster that works, `refsweep sweep resume {sweep}` continues it"
                )

    thread = threading.Thread(target=look, name="head-watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        closed.set()
        thread.join()
