"""What benchmarks share: where they ran, how they print, where figures go."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

OUT = Path("refsweep-out/benchmarks")


def where() -> dict[str, str]:
    """Commit and machine."""
    root = Path(__file__).parents[1]
    revision = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=root, capture_output=True, text=True, check=False
    )
    cpu = next(
        (line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.machine(),
    )
    cores = f"{len(os.sched_getaffinity(0))} cores of {cpu}, {_memory_gib()} GiB"
    return {"commit": revision.stdout.strip() or "unknown", "machine": f"{cores}, Python {platform.python_version()}"}


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def _memory_gib() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 30


def publish(name: str, title: str, rows: list[dict[str, Any]]) -> None:
    """Prints a table and writes a JSON."""
    table = Table(title=title, title_justify="left")
    for column in rows[0]:
        table.add_column(column, justify="left" if isinstance(rows[0][column], str) else "right")
    for row in rows:
        table.add_row(
            *(
                "-"
                if v is None
                else f"{v:,.3g}"
                if isinstance(v, float) and v < 1000
                else f"{v:,.0f}"
                if isinstance(v, float)
                else str(v)
                for v in row.values()
            )
        )
    Console(width=160).print(table, highlight=False)
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / f"{name}.json").write_text(json.dumps({**where(), "rows": rows}, indent=1))


def seconds(what: Callable[[], Any], repeat: int = 3) -> float:
    """The median time of some runs."""
    times = []
    for _ in range(repeat):
        began = time.perf_counter()
        what()
        times.append(time.perf_counter() - began)
    return sorted(times)[len(times) // 2]
