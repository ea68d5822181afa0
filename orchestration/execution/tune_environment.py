"""The variables under which Ray Tune does no more than it is asked to."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator

from ray.tune.execution import class_cache

from ..spec.credentials import looks_secret


@contextlib.contextmanager
def tune_environment() -> Iterator[None]:
    """Tune without loggers, without its own state on disk, without its Ctrl-C, and without variables of its own in the
    runtime environment of actors: Ray logs it on every host, where the driver's AWS keys would be read, and an actor
    with one starts in a new process, while Ray holds processes ready for those without."""
    wanted = {
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "TUNE_DISABLE_SIGINT_HANDLER": "1",
        "TUNE_DISABLE_AUTO_CALLBACK_SYNCER": "1",
        "TUNE_GLOBAL_CHECKPOINT_S": "1000000",
        "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
        "TUNE_MAX_PENDING_TRIALS_PG": "1000",  # with a searcher 1 by default: actors would start in a row
        "RAY_AIR_NEW_OUTPUT": "0",
    }
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    copied = class_cache.ENV_VARS_TO_PROPAGATE
    secret = {name for name in copied if looks_secret(name)}
    copied -= secret
    own = dict(class_cache.DEFAULT_ENV_VARS)
    class_cache.DEFAULT_ENV_VARS.clear()
    level = logging.getLogger("ray.tune").level
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logging.getLogger("ray.tune").setLevel(level)
        copied |= secret
        class_cache.DEFAULT_ENV_VARS.update(own)
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.__setitem__(name, value)
