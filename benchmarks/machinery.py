"""How much the machinery costs: whole sweeps of the toy, start-up included."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from .common import publish

TARGET_S, TARGET_TRIAL_S = 20.0, 0.3


def main() -> None:
    """Sweeps of 16 and of 46 trials of 6 epochs."""
    short = sorted(_sweep(16) for _ in range(3))[1]
    long = sorted(_sweep(46) for _ in range(3))[1]
    rows = [
        {"figure": "16 trials of 6 epochs, wall s", "measured": short, "target": f"<= {TARGET_S:g}"},
        {"figure": "each further trial, s", "measured": (long - short) / 30, "target": f"<= {TARGET_TRIAL_S:g}"},
    ]
    publish("machinery", "sweeps of the toy, median of 3", rows)


def _sweep(trials: int) -> float:
    spec = Path(__file__).parents[1] / "examples" / "toy.yaml"
    with tempfile.TemporaryDirectory() as folder:
        command = [str(Path(sys.executable).parent / "refsweep"), "sweep", "run", str(spec), "--plain"]
        sets = ["--set", f"storage={folder}", "--set", f"search.trials={trials}"]
        began = time.perf_counter()
        subprocess.run([*command, *sets], check=True, capture_output=True)
        return time.perf_counter() - began
