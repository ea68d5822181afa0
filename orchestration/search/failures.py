"""What a failure means: cause -> retry in place, resume free, infeasible, or the end of the sweep."""

from __future__ import annotations

import hashlib
import re
import traceback
from dataclasses import asdict, dataclass
from typing import Any, Literal

from ...datasets.problems import InputError
from ...datasets.storage.store import is_disk_full

Kind = Literal["out_of_memory", "non_finite", "bad_input", "disk_full", "node_lost", "lost", "hang", "error"]
Action = Literal["retry", "resume", "infeasible", "fail", "halt"]


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt of a trial ended early."""

    kind: Kind
    message: str
    traceback: str = ""

    @property
    def mark(self) -> str:
        """Equal for failures at the same place in the code: the traceback without its values."""
        where = re.findall(r'File "(.+?)", line (\d+), in (\S+)', self.traceback)
        kind = self.traceback.strip().rpartition("\n")[2].partition(":")[0]
        return hashlib.sha256(repr((self.kind, kind, where or self.message)).encode()).hexdigest()[:12]

    def as_json(self) -> dict[str, Any]:
        """For the ledger."""
        return asdict(self)


def failure_of(error: BaseException) -> Failure:
    """What an exception raised in a trial says."""
    text = "".join(traceback.format_exception(error))
    return Failure(_kind(error), f"{type(error).__name__}: {error}", text[-8000:])


def _kind(error: BaseException) -> Kind:
    if is_out_of_memory(error):
        return "out_of_memory"
    if is_disk_full(error):
        return "disk_full"
    if isinstance(error, InputError):
        return "bad_input"
    if type(error).__name__ == "NonFiniteError":
        return "non_finite"
    return "error"


def lost_worker(said: str) -> Failure:
    """What Ray's text on a worker that is gone means. Actors that run out of memory and actors whose node is lost
    end with the same kind of error: only its text tells them apart."""
    why = _gist(said)
    if "running low on memory" in said or "OUT_OF_MEMORY" in said:
        return Failure("out_of_memory", why)
    # `is unavailable`: neither the worker answers nor its node says that it died
    gone = ("node has died", "node was terminated", "was preempted", "NODE_DIED", "is unavailable")
    if any(words in said for words in gone):
        return Failure("node_lost", f"its node was lost: {why}")
    return Failure("lost", f"the worker was lost: {why}")


def _gist(said: str) -> str:
    lines = said.strip().splitlines() or [""]
    marked = next((line for line in lines if "because its" in line or "is unavailable" in line), None)
    return (marked or (lines[-1] if lines[0].endswith(":") else lines[0]))[:300]


def first_line(said: object) -> str:
    """Of an error's text, or its kind."""
    text = str(said).strip()
    return text.splitlines()[0] if text else type(said).__name__


def is_out_of_memory(error: BaseException) -> bool:
    """CUDA's and the host's."""
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
