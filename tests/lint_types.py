"""Runs mypy on the package under its own name, whatever the checkout's folder is called."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path


def main() -> int:
    """mypy's exit code."""
    root = Path(__file__).resolve().parents[1]
    with tempfile.TemporaryDirectory() as folder:
        os.symlink(root, Path(folder) / "refsweep")
        command = [sys.executable, "-m", "mypy", "--config-file", "refsweep/pyproject.toml"]
        for name in ("benchmarks", "cluster", "datasets", "orchestration", "search_spaces", "tests", "trainables"):
            command += ["-p", f"refsweep.{name}"]  # not all of it: sweeps and data may lie beside the code
        cache = ["--cache-dir", str(root / ".mypy_cache")]
        return subprocess.run([*command, *cache], cwd=folder, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
