"""What the demo's sweep learns: the champion on test videos, beside trivial answers and true labels."""

from __future__ import annotations

import argparse
import sys
import tempfile

from ..orchestration.demo import run_demo
from .common import publish


def main(arguments: list[str] | None = None) -> None:
    """The demo in a temporary folder."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out")
    asked = parser.parse_args(sys.argv[1:] if arguments is None else arguments)
    with tempfile.TemporaryDirectory() as folder:
        found = run_demo(asked.out or folder, lambda line: print(line, file=sys.stderr), plain=True)
    test = found["test"]
    targets = {"hota": "best trivial + 10", "auc_colour": ">= 0.85", "auc_side": ">= 0.85", "auc_direction": ">= 0.85"}
    rows = [{"figure": name, "test videos": value, "target": targets.get(name, "")} for name, value in test.items()]
    rows.append(
        {
            "figure": "gap closed from best trivial to true labels",
            "test videos": found["gap_closed"],
            "target": ">= 0.35",
        }
    )
    rows.append({"figure": "whole demo, wall s", "test videos": found["seconds"], "target": "<= 360"})
    publish("quality", "the demo: 9 trials of iKUN on made driving scenes", rows)
