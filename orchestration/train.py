"""One training without a search."""

from __future__ import annotations

import dataclasses
import signal
import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch

from ..datasets.fingerprint import fingerprint
from ..datasets.problems import InputError
from ..datasets.storage.store import Store
from ..trainables import coercion, discovery
from ..trainables.training.checkpoints import Checkpoints
from ..trainables.training.config import config_hash
from ..trainables.training.loop import NonFiniteError, Stopped, Training
from .execution.stopping import stop_signals
from .registry.wheel import code_hash
from .spec.errors import WorkFailedError
from .spec.places import folder_problem
from .spec.read import override


def _run(training: Training, tell: Callable[[str], None]) -> None:
    """Trains to the end, or until Ctrl-C or SIGTERM, which leave a checkpoint; a second Ctrl-C ends at once."""
    asked = threading.Event()

    def on_signal(number: int, _: Any) -> None:
        if asked.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.set()

    try:
        with stop_signals(on_signal):
            for epoch in training.run(asked.is_set):
                figures = "  ".join(f"{k} {v:.4g}" for k, v in epoch.metrics.items())
                tell(f"epoch {epoch.epoch}/{training.config.epochs}  {epoch.seconds:.1f} s  {figures}")
    except Stopped:
        tell("stopped; a checkpoint is written")
    except NonFiniteError as error:
        raise WorkFailedError(f"training went wrong, a lower lr may help: {error}") from None


def train_once(
    trainable: str, data: str, folder: str, sets: Sequence[str], device: str, tell: Callable[[str], None]
) -> dict[str, Any]:
    """Trains a Config made of its defaults and `FIELD=VALUE` texts, or goes on with it; what it came to.

    Raises InputError for fields or data that can't be used, WorkFailedError for a loss that is not a number.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise InputError(f"device must be auto, cpu or cuda, got {device!r}")
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("device must be auto or cpu: PyTorch finds no CUDA device here, got 'cuda'")
    problem = folder_problem(folder)
    if problem is not None:
        raise InputError(f"--out {problem}")
    module = discovery.load(trainable)
    config = coercion.make_config(module.Config, override({}, sets))
    store = Store(data) if data != "none" else None
    source = module.open_data(store)
    mark = "none"
    if store is not None:
        mark = fingerprint(store)
        discovery.check_data(trainable, store, dataclasses.asdict(config))
    place = Store(folder).child(f"{trainable}-{config_hash(config)}")
    newest = Checkpoints(place).names()
    training = Training(
        lambda: module.Task(config, source),
        config,
        store,
        Checkpoints(place),
        attempt=1 + max((name.attempt for name in newest), default=0),
        device="cuda" if device == "auto" and torch.cuda.is_available() else device.replace("auto", "cpu"),
        provenance={"trial": f"train/{trainable}", "data": mark, "code": code_hash()},
    )
    checkpoint = training.resume()
    if checkpoint is not None:
        tell(f"going on from {checkpoint.store.uri}/{checkpoint.name}")
    _run(training, tell)
    last = training.history[-1] if training.history else None
    names = Checkpoints(place).names()
    return {
        "trainable": trainable,
        "epoch": training.epoch,
        "final": training.is_over,
        "metrics": dict(last.metrics) if last else {},
        "setting": dict(last.setting) if last else {},
        "checkpoint": f"{place.uri}/{names[0]}" if names else None,
    }
