"""What a submitted job runs: compares versions, then starts its sweep or goes on with it.

Only Python itself is imported before versions were compared: where Ray or torch is missing, that is what is said.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from ..registry.versions import mismatches, versions

BEGUN = "refsweep job: the sweep has begun"  # a line of the job's log: from here on nothing is refused any more


def main() -> None:
    """Entry point, in the job's working folder."""
    job = json.loads(Path("job.json").read_text())
    wrong = mismatches(job["versions"], versions(), "the cluster")
    if wrong:
        sys.stderr.write("".join(f"refsweep: {line}\n" for line in wrong))
        sys.exit(2)
    from .output import exit_code

    code = exit_code(lambda: drive(job))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def drive(job: dict[str, Any]) -> None:
    """Runs the job's sweep to its end. Raises InputError and WorkFailedError as commands do."""
    from ...datasets.problems import InputError
    from ..execution.ray_start import ray_in_background
    from ..execution.tune import TuneBackend
    from ..jobs.hosts import check_hosts, password_hint
    from ..ledger.database import LedgerUnavailableError
    from ..sweep import check_spec, open_sweep
    from .live_view import progress_view
    from .output import tell
    from .sweep import report

    spec = check_spec(job["spec"])
    with ray_in_background() as connected:
        connected()
        check_hosts(spec, job["versions"], job["needs"])
        try:
            sweep = open_sweep(spec)
            with progress_view(plain=True) as view:
                backend = TuneBackend(connected, tell)
                outcome = sweep.run(backend, observers=[view], begun=lambda: print(BEGUN, flush=True))
        except LedgerUnavailableError as error:
            hint = password_hint(spec.ledger_url)
            if hint is None:
                raise
            raise InputError(f"{error}\n{hint}") from error
    report(sweep, outcome, as_json=False)


if __name__ == "__main__":
    main()
