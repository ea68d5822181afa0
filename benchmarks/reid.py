"""Person re-identification: seconds and memory of the retrieval metrics.

python -m refsweep.benchmarks reid
python -m refsweep.benchmarks.reid retrieval   one case, as JSON, in a process that does nothing else
python -m refsweep.benchmarks.reid large       100k x 100k, some minutes; only when named
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..trainables.metrics.retrieval import rank
from .common import publish

QUERIES, GALLERY, LARGE = 10_000, 50_000, 100_000
WIDTH, IDENTITIES, CAMERAS, THREADS = 512, 5_000, 6, 2
NOISE = 2.3  # of a row, in lengths of what its identity shares: mAP is neither 0 nor 100


def main() -> None:
    """In a process of its own, so that its memory can be told."""
    command = [sys.executable, "-m", __name__, "retrieval"]
    rows = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    case = f"{QUERIES:,} queries x {GALLERY:,} of {WIDTH}-d, {THREADS} threads"
    publish("reid", f"person re-identification; {case}", rows)


def retrieval() -> list[dict[str, Any]]:
    """All figures of 10k queries in a gallery of 50k, with cameras, on two threads."""
    return _measured(QUERIES, GALLERY, seconds="<= 60", mib="<= 2048")


def large() -> list[dict[str, Any]]:
    """The same of 100k in 100k."""
    return _measured(LARGE, LARGE)


def _measured(queries: int, gallery: int, seconds: str = "", mib: str = "") -> list[dict[str, Any]]:
    """Figures with their targets."""
    torch.set_num_threads(THREADS)
    rng = np.random.default_rng(0)
    shared_ID = rng.standard_normal((IDENTITIES, WIDTH), np.float32)
    features, ids, cameras = [], [], []
    for rows in (queries, gallery):
        id_N = rng.integers(0, IDENTITIES, rows)
        feature_ND = rng.standard_normal((rows, WIDTH), np.float32)
        feature_ND *= NOISE
        feature_ND += shared_ID[id_N]
        feature_ND /= np.linalg.norm(feature_ND, axis=1, keepdims=True)
        features.append(feature_ND)
        ids.append(id_N)
        cameras.append(rng.integers(0, CAMERAS, rows))
    before_mib = peak_mib()
    rows_of: list[dict[str, Any]] = []
    # where a model knows nothing, right answers lie anywhere in the list: most of it is sorted
    for what, who in (("a fair model", ids), ("a model that knows nothing", [rng.permutation(i) for i in ids])):
        began, began_cpu = time.perf_counter(), time.process_time()
        figures = rank(*features, *who, query_camera_Q=cameras[0], gallery_camera_G=cameras[1]).figures()
        wall_s, cpu_s = time.perf_counter() - began, time.process_time() - began_cpu
        name = f"retrieval metrics of {what} (mAP {figures['map']:.2g} %), s"
        rows_of.append({"figure": name, "measured": wall_s, "target": seconds})
        rows_of.append({"figure": "CPU seconds of it, all threads", "measured": cpu_s, "target": ""})
    return [
        *rows_of,
        {"figure": "peak memory of that process, MiB", "measured": peak_mib(), "target": mib},
        {"figure": "of it before ranking began", "measured": before_mib, "target": ""},
    ]


def peak_mib() -> float:
    """Most memory this process has held; not `ru_maxrss`, which starts at that of the process it came from."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024


CASES = {"retrieval": retrieval, "large": large}

if __name__ == "__main__":
    sys.stdout.write(json.dumps(CASES[sys.argv[1]]()) + "\n")
