"""What the machine that submits a sweep and the job on the cluster agree on. Needs nothing but Python itself.

A job is described by its metadata, which Ray keeps and shows to everyone who can list the cluster's jobs, and by
`job.json` in its working directory. It reports its progress by lines of its log:

    refsweep-job TOKEN {"event": "begun"}
    refsweep-job TOKEN {"event": "ended", "state": "stopped", "exit_code": 1, "message": "sweep s stopped: ..."}

The token is drawn for each submission, and only metadata and `job.json` contain it. So no other text in the log (the
message of an exception, a name in a data set) is taken for such a line.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

# keys of a job's metadata
SWEEP, LEDGER, CODE, TOKEN = "refsweep.sweep", "refsweep.ledger", "refsweep.code", "refsweep.token"
STORAGE = "refsweep.storage"  # it and the ledger tell two sweeps of one name apart
JOB_FILE = "job.json"  # in the job's working directory
# PYTHONSAFEPATH: a folder named refsweep where the cluster was started is not taken for the package
ENTRYPOINT = "PYTHONSAFEPATH=1 exec python -m refsweep.orchestration.cli.job"
_MARKER = "refsweep-job"
# lines of jobs that were submitted before there was a token
_OLD_BEGUN, _OLD_STOPPED = "refsweep job: the sweep has begun", "refsweep: sweep {} stopped"


def new_token() -> str:
    """A token for one submission."""
    return secrets.token_hex(16)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobContent:
    """What a job reads from its `job.json`."""

    spec: Mapping[str, Any]  # of the sweep, in plain values
    versions: Mapping[str, str]  # of Python, libraries and code where it was submitted
    needs: Sequence[str]  # variables and files that every host must have
    token: str

    def write(self, folder: Path) -> None:
        """As `job.json` into a folder."""
        (folder / JOB_FILE).write_text(json.dumps(asdict(self), indent=1, sort_keys=True))

    @classmethod
    def read(cls, folder: Path) -> JobContent:
        """From the `job.json` of a folder."""
        return cls(**json.loads((folder / JOB_FILE).read_text()))


@dataclass(frozen=True, slots=True)
class Begun:
    """The sweep runs: from here on nothing is rejected any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """The driver has ended by itself."""

    state: str | None  # of the sweep: finished, stopped or halted; None where the driver failed before it ended
    exit_code: int  # as of every command: 0 done, 1 the work failed, 2 bad input
    message: str  # why, for exit codes other than 0


Event = Begun | Ended
_NAMES: dict[type[Event], str] = {Begun: "begun", Ended: "ended"}


def event_line(event: Event, token: str) -> str:
    """The line of the log that reports an event."""
    return f"{_MARKER} {token} {json.dumps({'event': _NAMES[type(event)], **asdict(event)})}"


def event_of(line: str, token: str | None, sweep: str) -> Event | None:
    """The event that a line of a job's log reports; None for any other line.

    Text that was printed without a newline may precede it. No token means that an earlier version submitted the job.
    """
    if token is None:
        return _old_event(line, sweep)
    content = line.partition(f"{_MARKER} {token} ")[2]
    try:
        fields = json.loads(content)
        name = fields.pop("event")
        return next((kind(**fields) for kind, known in _NAMES.items() if known == name), None)
    except (ValueError, KeyError, TypeError, AttributeError):  # no event, or a line that was cut
        return None


def _old_event(line: str, sweep: str) -> Event | None:
    if line.startswith(_OLD_BEGUN):
        return Begun()
    if line.startswith(_OLD_STOPPED.format(sweep)):
        return Ended(state="stopped", exit_code=1, message=line.removeprefix("refsweep: "))
    return None
