"""Why an attempt of a trial ended early, as the ledger keeps it. Imports nothing heavy: trials make these too."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

FailureKind = Literal["out_of_memory", "non_finite", "bad_input", "disk_full", "node_lost", "lost", "hang", "error"]
Action = Literal["retry", "resume", "infeasible", "fail", "halt"]


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt of a trial ended early."""

    kind: FailureKind
    message: str
    traceback: str = ""

    @property
    def location_hash(self) -> str:
        """Equal for failures at the same place in the code: a hash of the traceback without its values."""
        frames = re.findall(r'File "(.+?)", line (\d+), in (\S+)', self.traceback)
        error_type = self.traceback.strip().rpartition("\n")[2].partition(":")[0]
        return hashlib.sha256(repr((self.kind, error_type, frames or self.message)).encode()).hexdigest()[:12]

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Failure:
        """From plain values; keys that are not a failure's are ignored."""
        return cls(content["kind"], content["message"], content.get("traceback", ""))


@dataclass(frozen=True, slots=True)
class FailedAttempt:
    """An attempt that failed, and what was done about it."""

    failure: Failure
    attempt: int
    action: Action
    location_hash: str

    def as_json(self) -> dict[str, Any]:
        """As stored in a trial's attribute `failures`."""
        own = {"mark": self.location_hash, "attempt": self.attempt, "action": self.action}
        return {**self.failure.as_json(), **own}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> FailedAttempt:
        """From what is stored."""
        return cls(Failure.from_json(content), int(content["attempt"]), content["action"], content["mark"])
