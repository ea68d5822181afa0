"""The whole way, embedded, in minutes: data, sweep, promotion, evaluation, a video that the champion tracks."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import refsweep

from ...datasets.storage.store import Store
from ...trainables import discovery
from ..evaluate import evaluate
from ..execution.ray_start import ray_in_background
from ..execution.tune import TuneBackend
from ..ledger.records import SweepState
from ..registry.registry import Registry
from ..spec.data import data_of
from ..spec.errors import WorkFailedError
from ..spec.read import read_spec
from ..spec.schema import SweepSpec
from ..sweep import check_spec, open_sweep
from ..track import track
from .live_view import progress_view

EXAMPLE = "ikun.yaml"  # of examples/: one whose model can track


def run_demo(folder: str, tell: Callable[[str], None], *, plain: bool | None) -> dict[str, Any]:
    """Runs the example in a folder, or continues an earlier run there; results, and where everything is.

    Raises WorkFailedError when the sweep was stopped.
    """
    began = time.monotonic()
    steps: list[dict[str, Any]] = []

    def done(step: str, result: str) -> None:
        steps.append({"step": step, "result": result, "after_s": round(time.monotonic() - began)})
        tell(f"[{steps[-1]['after_s']} s] {step}: {result}")

    content = read_spec(str(Path(str(refsweep.__file__)).parent / "examples" / EXAMPLE))
    tell("making data, and starting Ray beside it")
    with ray_in_background(content["trainable"]) as connected, progress_view(plain=plain) as view:
        sweep = open_sweep(check_spec({**content, "storage": str(Path(folder).absolute())}))
        spec = sweep.spec
        data = data_of(spec)
        assert data is not None
        done("data", f"{spec.data} at {data}")
        outcome = sweep.run(TuneBackend(connected, tell), observers=[view])
    standing = sweep.status()
    if outcome.state is not SweepState.FINISHED or standing["best"] is None:
        raise WorkFailedError(f"the sweep is {outcome.state}: run the demo again to continue it")
    metric = spec.objectives[0].metric
    done("sweep", _sweep_line(standing, metric))
    registry = Registry(str(spec.tracking_uri))
    promoted = sweep.promote()
    done("promotion", f"{promoted['model']} version {promoted['version']} is champion")
    package, _ = registry.fetch(spec.trainable, Path(folder) / "champion")
    figures = evaluate(package, data, "test")
    done("test split", f"{metric} {figures[metric]:.1f}")
    video, expressions = discovery.capability(spec.trainable, "track_example", "demo")(
        discovery.load(spec.trainable).open_data(Store(data))
    )
    out = Path(folder) / "tracked.mp4"
    tracked = track(package, data, video, expressions, out)
    done("video", f"{' and '.join(expressions)} in video {video}")
    sweep.close()
    return {
        "steps": steps,
        "trials": standing["trials"],
        "best": standing["best"],
        "test": figures,
        "tracked": tracked["found"],
        "seconds": time.monotonic() - began,
        "places": _places(spec, folder, standing["best"], out),
    }


def _sweep_line(standing: dict[str, Any], metric: str) -> str:
    trials, best = standing["trials"], standing["trials"][standing["best"]]
    pruned = sum(trial["state"] == "PRUNED" for trial in trials)
    counts = f"{len(trials)} trials, {pruned} pruned"
    return f"{counts}; best validation {metric} {best['value']:.1f} in trial {best['number']}"


def _places(spec: SweepSpec, folder: str, best: int, video: Path) -> dict[str, str]:
    """Where everything is, for a person who wants to look."""
    return {
        "ledger": spec.ledger_url,
        "MLflow": f"mlflow server --backend-store-uri {spec.tracking_uri} --host 127.0.0.1 --port 5000",
        "checkpoints": f"{spec.storage}/{spec.name}/{best}",
        "champion": f"{folder}/champion",
        "video": str(video.absolute()),
    }
