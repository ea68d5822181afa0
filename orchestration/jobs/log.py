"""Follows the log of a job over connections that may be lost."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable, Generator
from typing import TYPE_CHECKING

import aiohttp
import requests

from ..spec.errors import WorkFailedError

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

LOST_TIMEOUT_S = 60.0  # how long a dashboard that does not answer is asked again
RECONNECT_POLL_S = 1.0


def follow(client: JobSubmissionClient, job: str, is_over: Callable[[], bool]) -> Generator[str]:
    """Lines of a job's log as they are written, until the job is over. Reconnects when the connection is lost.

    Raises WorkFailedError when the dashboard has not answered for `LOST_TIMEOUT_S`.
    """
    shown, rest, last_s = 0, "", time.monotonic()  # characters handled so far, a line's beginning, the last answer
    while True:
        at = 0
        with contextlib.suppress(_ConnectionLostError), contextlib.closing(_tail(client, job)) as chunks:
            for chunk in chunks:
                new = chunk[max(0, shown - at) :]  # every connection sends the log from its start
                at += len(chunk)
                shown, last_s = max(shown, at), time.monotonic()
                *lines, rest = (rest + new).split("\n")
                yield from lines
            if is_over():
                break
        if time.monotonic() - last_s > LOST_TIMEOUT_S:
            raise WorkFailedError(
                f"the dashboard has not answered for {LOST_TIMEOUT_S:g} s; job {job} keeps running if its cluster does"
            )
        time.sleep(RECONNECT_POLL_S)
    if rest:
        yield rest


class _ConnectionLostError(Exception):
    """The connection to a log was lost."""


def _tail(client: JobSubmissionClient, job: str) -> Generator[str]:
    """Chunks of a log from its start. Raises _ConnectionLostError."""
    loop = asyncio.new_event_loop()
    stream = client.tail_job_logs(job)
    try:
        while True:
            try:
                yield str(loop.run_until_complete(anext(stream)))
            except StopAsyncIteration:
                return
            except (RuntimeError, OSError, aiohttp.ClientError, requests.RequestException) as error:
                raise _ConnectionLostError from error
    finally:
        _close(loop, stream)


def _close(loop: asyncio.AbstractEventLoop, stream: AsyncGenerator[str]) -> None:
    """Ends a generator and its loop, also in the middle of a step: Ctrl-C leaves that one pending."""
    pending = asyncio.all_tasks(loop)

    async def end() -> None:
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        await stream.aclose()

    loop.run_until_complete(end())
    loop.close()
