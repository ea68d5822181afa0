"""Starts Ray while a command does something else: it takes three seconds, imports another two."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ...datasets.problems import InputError
from ...trainables import discovery
from .ray_address import make_token, ray_address, ray_temp
from .scratch import own_folder

SESSION = "refsweep-ray-"  # folders of Ray's files on this machine, one for each process
LEAVE_S = 30.0  # for a Ray that is being started to end


@contextlib.contextmanager
def ray_in_background(trainable: str | None = None) -> Iterator[Callable[[], None]]:
    """Joins the cluster of RAY_ADDRESS, or starts Ray on this machine for this process alone, beside the body. The
    processes that Ray starts here import what trials of `trainable` need before the first trial is there.

    The body gets a function that waits for it and raises what went wrong. The thread lives as long as Ray does:
    Ray's processes ask the kernel to die with the *thread* that made them. Raises InputError, before the body runs,
    for an environment that Ray can't be used in.
    """
    address = ray_address()
    if address != "local":
        with _in_background(lambda: _join(address), leave_s=0.0) as wait:
            yield wait
        return
    make_token()
    with own_folder(SESSION, ray_temp()) as folder, _in_background(lambda: _start(trainable, folder), LEAVE_S) as wait:
        yield wait


@contextlib.contextmanager
def _in_background(connect: Callable[[], None], leave_s: float) -> Iterator[Callable[[], None]]:
    """Connects in a thread of its own; the body gets a function that waits for it. At the end Ray is shut down, unless
    it takes more than `leave_s` from then on to connect: what was started dies with this process."""
    failed: list[BaseException] = []
    ready, over = threading.Event(), threading.Event()

    def work() -> None:
        try:
            connect()
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
        if ready.wait(leave_s):
            import ray

            ray.shutdown()
            over.set()
            thread.join()


def _start(trainable: str | None, folder: Path) -> None:
    with _without_servers():
        _init(
            "local",
            include_dashboard=False,
            num_cpus=len(os.sched_getaffinity(0)),
            _temp_dir=str(folder / "r"),  # which Ray opens to everyone: below it is ours alone
            _system_config={"preload_python_modules": preloaded(trainable)},
        )


def _join(address: str) -> None:
    try:
        _init(address)
    except (ConnectionError, RuntimeError, ValueError) as error:  # what Ray raises; its authentication errors too
        why = str(error).strip().partition("\n")[0]
        if "InvalidAuthToken" in str(error.__cause__):
            why = "the cluster rejects this token: set RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to that cluster's"
        raise InputError(f"no Ray at RAY_ADDRESS={address}: {why}") from error


def _init(address: str, **own: Any) -> None:
    import ray

    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    _say_on_stderr()
    ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **own)


@contextlib.contextmanager
def _without_servers() -> Iterator[None]:
    """Ray without the processes that serve nobody when it runs for one command: the dashboard's, which is started
    without a dashboard too, the autoscaler's, and the one that would send logs to the driver. `ray.init` has no
    switch for them, and waits for the first for two seconds."""
    from ray._private.node import Node

    names = ("start_api_server", "start_monitor", "start_log_monitor")
    methods = {name: getattr(Node, name) for name in names if hasattr(Node, name)}
    for name in methods:
        setattr(Node, name, lambda _, **__: None)
    try:
        yield
    finally:
        for name, method in methods.items():
            setattr(Node, name, method)


def preloaded(trainable: str | None) -> list[str]:
    """The modules that a trial of `trainable` needs; none where there is no such trainable."""
    if trainable not in discovery.names():
        return []
    root = __package__.removesuffix(".orchestration.execution")
    return [
        f"{root}.orchestration.execution.actor",
        f"{root}.orchestration.execution.attempt",
        f"{root}.trainables.{trainable}.task",
    ]


def _say_on_stderr() -> None:
    """Ray prints on stdout, where results belong, that a worker was lost."""
    from ray._private import worker

    say = worker.print_to_stdstream
    worker.print_to_stdstream = lambda data, **options: say({**data, "is_err": True}, **options)
