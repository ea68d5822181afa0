"""How much the machinery costs: whole sweeps of the toy, start-up included."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from .common import publish

REPORT_S, SWEEP_S, TRIAL_S = 8.0, 10.0, 0.3  # the targets
RUNS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """Of one `sweep run`, in seconds from the start of its process."""

    first_report_s: float
    end_s: float


def main() -> None:
    """Sweeps of 16 and of 46 trials of 6 epochs, of one worker each."""
    short = [_sweep(16) for _ in range(RUNS)]
    long = [_sweep(46) for _ in range(RUNS)]
    first = statistics.median(times.first_report_s for times in short)
    end = statistics.median(times.end_s for times in short)
    further = (statistics.median(times.end_s for times in long) - end) / 30
    rows = [
        {"figure": "first report of an epoch, s after the command", "measured": first, "target": f"<= {REPORT_S:g}"},
        {"figure": "16 trials of 6 epochs, wall s", "measured": end, "target": f"<= {SWEEP_S:g}"},
        {"figure": "each further trial, s", "measured": further, "target": f"<= {TRIAL_S:g}"},
    ]
    publish("machinery", f"sweeps of the toy, median of {RUNS}", rows)


def _sweep(trials: int) -> Times:
    spec = Path(__file__).parents[1] / "examples" / "toy.yaml"
    with tempfile.TemporaryDirectory() as folder:
        command = [str(Path(sys.executable).parent / "refsweep"), "sweep", "run", str(spec), "--plain"]
        sets = ["--set", f"storage={folder}", "--set", f"search.trials={trials}"]
        began = time.perf_counter()
        first = None
        with subprocess.Popen([*command, *sets], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as run:
            assert run.stdout is not None
            for line in run.stdout:
                if first is None and "  epoch 1/" in line:
                    first = time.perf_counter() - began
        if run.returncode or first is None:
            raise RuntimeError(f"`{' '.join([*command, *sets])}` ended with {run.returncode}")
        return Times(first_report_s=first, end_s=time.perf_counter() - began)
