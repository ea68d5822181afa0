"""`python -m refsweep.benchmarks [name ...]`: runs benchmarks, prints their tables, writes a JSON each.

Without a name all but `faults`, `mm_quality` and `t2i_quality`, which take twenty to forty minutes each.
"""

from __future__ import annotations

import importlib
import sys

from .common import OUT, where

NAMES = (
    "posthoc",
    "streaming",
    "objects",
    "machinery",
    "several",
    "scale",
    "actors",
    "scoring",
    "reid",
    "mer",
    "quality",
)
NAMED = ("faults", "mm_quality", "t2i_quality")  # only when asked for

if __name__ == "__main__":
    chosen = sys.argv[1:] or list(NAMES)
    unknown = [name for name in chosen if name not in NAMES + NAMED]
    if unknown:
        sys.exit(f"benchmark must be one of {', '.join(NAMES + NAMED)}, got {', '.join(unknown)}")
    here = where()
    sys.stdout.write(f"commit {here['commit']}; {here['machine']}\n")
    sys.stdout.flush()
    for name in chosen:
        module = importlib.import_module(f".{name}", __package__)
        module.main()
    sys.stdout.write(f"figures are in {OUT}/\n")
