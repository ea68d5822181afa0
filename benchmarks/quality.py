"""What the demo's sweep learns: the champion on test videos, beside trivial answers and true labels."""

from __future__ import annotations

import sys
import tempfile

from ..orchestration.cli.demo import run_demo
from .common import publish

TARGETS = {
    "hota": "best trivial + 10",
    "auc_colour": ">= 0.85",
    "auc_side": ">= 0.85",
    "auc_direction": ">= 0.85",
    "gap_closed": ">= 0.35",
    "whole demo, wall s": "<= 360",
}


def main() -> None:
    """The demo in a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        demo = run_demo(folder, lambda line: print(line, file=sys.stderr), plain=True)
    figures = {**demo["test"], "whole demo, wall s": demo["seconds"]}
    rows = [{"figure": name, "test videos": value, "target": TARGETS.get(name, "")} for name, value in figures.items()]
    publish("quality", f"the demo: {len(demo['trials'])} trials of iKUN on made driving scenes", rows)
