"""All of it, embedded, in minutes: data, sweep, promotion, evaluation, a tracked video."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import refsweep

from ...datasets.layouts.refer_kitti import ReferKitti, normalise
from ...datasets.storage.store import Store
from ...trainables.ikun.baselines import KINDS
from ..evaluate import evaluate, track
from ..execution.ray_start import ray_in_background
from ..execution.tune import TuneBackend
from ..ledger.ledger import Ledger
from ..ledger.records import SweepState
from ..registry.registry import Registry
from ..spec.data import data_of
from ..spec.errors import WorkFailedError
from ..spec.read import read_spec
from ..sweep import check_spec, open_sweep
from .live_view import progress_view


def run_demo(folder: str, said: Callable[[str], None], *, plain: bool | None) -> dict[str, Any]:
    """Runs `examples/ikun.yaml` in a folder, or goes on with it; where everything is and what came of it."""
    began = time.monotonic()
    steps: list[dict[str, Any]] = []

    def done(what: str, result: str) -> None:
        steps.append({"step": what, "result": result, "after_s": round(time.monotonic() - began)})
        said(f"[{steps[-1]['after_s']} s] {what}: {result}")

    content = read_spec(str(Path(str(refsweep.__file__)).parent / "examples" / "ikun.yaml"))
    said("making driving scenes, and starting Ray beside it")
    with ray_in_background() as connected, progress_view(plain=plain) as view:
        sweep = open_sweep(check_spec({**content, "storage": str(Path(folder).absolute())}))
        spec = sweep.spec
        data = data_of(spec)
        assert data is not None
        source = ReferKitti(Store(data))
        videos = {split: len(names) for split, names in source.splits.items()}
        done("data", f"{sum(videos.values())} videos at {data} ({', '.join(f'{n} {s}' for s, n in videos.items())})")
        outcome = sweep.run(TuneBackend(connected, said), observers=[view])
    found = sweep.status()
    if outcome.state is not SweepState.FINISHED or found["best"] is None:
        raise WorkFailedError(f"the sweep is {outcome.state}: run the demo again to go on")
    pruned = sum(t["state"] == "PRUNED" for t in found["trials"])
    best = found["trials"][found["best"]]
    trials = f"{len(found['trials'])} trials, {pruned} pruned"
    done("sweep", f"{trials}; validation HOTA {best['value']:.1f} in trial {best['number']}")
    promoted, figures = _promote(spec, sweep.ledger, data)
    done("promotion", f"{promoted['model']} version {promoted['version']} is champion")
    done(
        "test videos",
        f"HOTA {figures['hota']:.1f}, {_gap(figures):.0%} of the way from the best trivial answer to true labels",
    )
    video, expressions = _to_track(source)
    registry = Registry(str(spec.tracking_uri))
    out = Path(folder) / "tracked.mp4"
    package, _ = registry.fetch("ikun", Path(folder) / "champion")
    tracked = track(package, data, video, expressions, out)
    done("video", f"{' and '.join(expressions)} in video {video}")
    sweep.close()
    return {
        "steps": steps,
        "trials": found["trials"],
        "best": found["best"],
        "test": figures,
        "gap_closed": _gap(figures),
        "tracked": tracked["found"],
        "seconds": time.monotonic() - began,
        "places": {
            "ledger": spec.ledger_url,
            "MLflow": f"mlflow server --backend-store-uri {spec.tracking_uri} --host 127.0.0.1 --port 5000",
            "checkpoints": f"{spec.storage}/{spec.name}/{found['best']}",
            "champion": f"{folder}/champion",
            "video": str(out.absolute()),
        },
    }


def _promote(spec: Any, ledger: Ledger, data: str) -> tuple[dict[str, Any], dict[str, float]]:
    registry = Registry(str(spec.tracking_uri))
    promoted = registry.promote(spec, ledger, data)
    package, _ = registry.fetch("ikun", Path(spec.storage) / "champion")
    return promoted, evaluate(package, data, "test")


def _gap(figures: dict[str, float]) -> float:
    """The share of the way from the best trivial answer to the same tracks with true labels."""
    trivial = max(figures[f"hota_{name}"] for name in ("every_track", "random_track", "right_category"))
    return (figures["hota"] - trivial) / (figures["hota_true_labels"] - trivial)


def _to_track(source: ReferKitti) -> tuple[str, list[str]]:
    """A test video and two of its expressions, one of colour and one of direction, those that mean most boxes."""
    for video in source.videos("test"):
        chosen = []
        for kind in ("colour", "direction"):
            of_kind = [e for e in source.expressions(video) if KINDS[kind] & set(normalise(e).split())]
            if of_kind:
                chosen.append(max(of_kind, key=lambda e: sum(map(len, source.referred(video, e).values()))))
        if len(chosen) == 2:
            return video, [e.replace("-", " ") for e in chosen]
    video = source.videos("test")[0]
    return video, [e.replace("-", " ") for e in source.expressions(video)[:2]]
