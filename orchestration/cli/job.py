"""What a submitted job runs: compares versions, then starts its sweep or continues it.

Only Python itself is imported before versions are compared, so that a cluster without Ray or torch is told so. What
the submitting side waits for is written to the log as lines of `jobs.protocol`.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ..jobs.protocol import Begun, Ended, Event, JobContent, event_line
from ..registry.versions import mismatches, versions
from ..spec.credentials import redacted

if TYPE_CHECKING:
    from ..sweep import Outcome, Sweep


def main() -> None:
    """Entry point, in the job's working directory."""
    job = JobContent.read(Path())
    wrong = mismatches(job.versions, versions(), "the cluster")
    if wrong:
        ended = Ended(state=None, exit_code=2, message="\n".join(wrong))
        sys.stderr.write("".join(f"refsweep: {line}\n" for line in wrong))
    else:
        ended = _work(job)
    write_event(ended, job.token)
    sys.stderr.flush()
    os._exit(ended.exit_code)


def write_event(event: Event, token: str) -> None:
    """Writes an event into the job's log."""
    print(event_line(event, token), flush=True)


def _work(job: JobContent) -> Ended:
    from .process import run_to_exit  # here: rich and typer may be missing where versions differ

    outcome: Outcome | None = None

    def work() -> None:
        nonlocal outcome
        sweep, outcome = drive(job)
        from .sweep import report

        report(sweep, outcome, as_json=False)

    exit_code, message = run_to_exit(work)
    return Ended(state=outcome.state if outcome else None, exit_code=exit_code, message=redacted(message))


def drive(job: JobContent) -> tuple[Sweep, Outcome]:
    """Runs the job's sweep until it has ended. Raises InputError and WorkFailedError as commands do."""
    # here: these need Ray, torch and MLflow, which may be missing where versions differ
    from ...datasets.problems import InputError
    from ..execution.ray_start import ray_in_background
    from ..execution.tune import TuneBackend
    from ..jobs.hosts import check_hosts, password_hint
    from ..spec.errors import LedgerUnavailableError
    from ..sweep import check_spec, open_sweep
    from .live_view import progress_view
    from .output import tell

    spec = check_spec(job.spec)
    with ray_in_background() as connected:
        connected()
        check_hosts(spec, job.versions, job.needs)
        try:
            sweep = open_sweep(spec)
            with progress_view(plain=True) as view:
                backend = TuneBackend(connected, tell)
                outcome = sweep.run(backend, observers=[view], begun=lambda: write_event(Begun(), job.token))
        except LedgerUnavailableError as error:
            hint = password_hint(spec.ledger_url)
            if hint is None:
                raise
            raise InputError(f"{error}\n{hint}") from error
    return sweep, outcome


if __name__ == "__main__":
    main()
