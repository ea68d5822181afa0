"""What a failure means: cause -> retry in place, resume free, infeasible, or the end of the sweep."""

from __future__ import annotations

import traceback

from ...datasets.problems import InputError
from ...datasets.storage.store import is_disk_full
from ..ledger.failure import Action, Failure, FailureKind


def failure_of(error: BaseException) -> Failure:
    """The failure that an exception raised in a trial is."""
    text = "".join(traceback.format_exception(error))
    return Failure(_kind(error), f"{type(error).__name__}: {error}", text[-8000:])


def _kind(error: BaseException) -> FailureKind:
    if is_out_of_memory(error):
        return "out_of_memory"
    if is_disk_full(error):
        return "disk_full"
    if isinstance(error, InputError):
        return "bad_input"
    if type(error).__name__ == "NonFiniteError":
        return "non_finite"
    return "error"


def lost_worker(ray_text: str) -> Failure:
    """The failure behind Ray's text on a worker that is gone. Actors that run out of memory and actors whose node is
    lost end with the same type of error: only its text tells them apart."""
    why = _gist(ray_text)
    if "running low on memory" in ray_text or "OUT_OF_MEMORY" in ray_text:
        return Failure("out_of_memory", why)
    # `is unavailable`: neither the worker answers nor its node says that it died
    gone = ("node has died", "node was terminated", "was preempted", "NODE_DIED", "is unavailable")
    if any(words in ray_text for words in gone):
        return Failure("node_lost", f"its node was lost: {why}")
    return Failure("lost", f"the worker was lost: {why}")


def _gist(text: str) -> str:
    lines = text.strip().splitlines() or [""]
    telling = next((line for line in lines if "because its" in line or "is unavailable" in line), None)
    return (telling or (lines[-1] if lines[0].endswith(":") else lines[0]))[:300]


def first_line(error: object) -> str:
    """The first line of an error's text, or its type."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that CUDA's or the host's memory is used up."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or ("out of memory" in str(error).lower() and "cuda" in str(error).lower())
    )


def decide(failure: Failure, retries: int, max_retries: int, progressed: bool) -> Action:
    """What to do about a trial's failure.

    `retries` counts the trial's earlier failures that were retried; `progressed` says whether the attempt
    finished an epoch. A lost node is never the trial's fault. A lost or hung worker costs a retry only when nothing
    came of the attempt, so that a trial that kills every worker does not run for ever.
    """
    if failure.kind == "node_lost":
        return "resume"
    if failure.kind in ("out_of_memory", "non_finite"):
        return "infeasible"
    if failure.kind in ("bad_input", "disk_full"):
        return "halt"
    if failure.kind in ("lost", "hang") and progressed:
        return "resume"
    return "retry" if retries < max_retries else "fail"
