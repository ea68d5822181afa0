"""Starts Ray while a command does something else: it takes four seconds, imports another two."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def ray_in_background() -> Iterator[Callable[[], None]]:
    """Joins the cluster of RAY_ADDRESS, or starts Ray on this machine for this process alone, beside the body.

    The body gets a function that waits for it and raises what went wrong. The thread lives as long as Ray does:
    Ray's processes ask the kernel to die with the *thread* that made them.
    """
    failed: list[BaseException] = []
    ready, over = threading.Event(), threading.Event()

    def work() -> None:
        try:
            _connect()
        except BaseException as error:  # noqa: BLE001  raised where it is waited for
            failed.append(error)
        ready.set()
        over.wait()

    thread = threading.Thread(target=work, name="ray", daemon=True)
    thread.start()

    def wait() -> None:
        ready.wait()
        if failed:
            raise failed[0]

    try:
        yield wait
    finally:
        ready.wait()
        import ray

        ray.shutdown()
        over.set()
        thread.join()


def _connect() -> None:
    import ray

    _say_on_stderr()
    address = os.environ.get("RAY_ADDRESS", "local")
    own = {"include_dashboard": False, "num_cpus": len(os.sched_getaffinity(0))} if address == "local" else {}
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **own)


def _say_on_stderr() -> None:
    """Ray prints on stdout, where results belong, that a worker was lost."""
    from ray._private import worker

    say = worker.print_to_stdstream
    worker.print_to_stdstream = lambda data, **options: say({**data, "is_err": True}, **options)
