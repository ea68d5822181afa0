"""Retries what failed for a passing reason: exponential back-off with full jitter, for a limited time.

Full jitter (each wait uniform between nothing and a limit that doubles) spreads the clients of a server that
comes back, which equal waits would send all at once.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")
_RANDOM = random.SystemRandom()  # not the `random` module's own state, which belongs to training


class UnreachableError(OSError):
    """Object storage did not answer, or kept failing, for as long as requests are retried."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """How long to retry, and how long to wait in between."""

    total_s: float = 120.0  # then the last error is raised: a server that is restarted or replaced is back by then
    first_s: float = 0.1  # limit of the first wait; it doubles
    most_s: float = 5.0  # limit of any wait: what is lost at most after the server is back


def retry(
    act: Callable[[], T],
    is_transient: Callable[[Exception], bool],
    backoff: Backoff | None = None,
    *,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> T:
    """The result of `act`, called again after transient errors. Raises any other error, and the last one, as it is."""
    backoff = backoff or Backoff()
    end, limit_s = clock() + backoff.total_s, backoff.first_s
    while True:
        try:
            return act()
        except Exception as error:
            wait_s = _RANDOM.uniform(0, limit_s)
            if not is_transient(error) or clock() + wait_s > end:
                raise
        limit_s = min(2 * limit_s, backoff.most_s)
        sleep(wait_s)
