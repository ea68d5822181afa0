"""Small things that several tests need."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial
from refsweep.orchestration.execution.inline import InlineBackend
from refsweep.orchestration.ledger.ledger import Ledger
from refsweep.orchestration.ledger.records import TrialRecord
from refsweep.orchestration.search.asking import propose
from refsweep.orchestration.search.discovery import sampler_class
from refsweep.orchestration.search.driver import Driver
from refsweep.orchestration.search.protocol import Room
from refsweep.orchestration.search.samplers.base import SamplerSettings
from refsweep.orchestration.spec.check import epochs_of
from refsweep.orchestration.spec.read import make_spec
from refsweep.orchestration.spec.schema import SweepSpec
from refsweep.search_spaces import toy


def tree(root: Path) -> dict[str, bytes]:
    """The content of every file of a folder, by path."""
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def frame_paths(root: Path) -> list[str]:
    """Paths of the frames of a Refer-KITTI data set in single files."""
    return [str(p.relative_to(root)) for p in sorted((root / "KITTI/training/image_02").rglob("*.png"))]


def new_ledger(spec: SweepSpec) -> Ledger:
    """The ledger of a spec's sweep, made if it is new, with its lease."""
    ledger = Ledger.create(spec.ledger_url, spec.name, [o.mode for o in spec.objectives], spec.as_json())
    ledger.take_lease()
    return ledger


def driver_of(spec: SweepSpec, ledger: Ledger | None = None, room: Room = Room(1), **options: Any) -> Driver:  # noqa: B008
    """A driver of toy trials."""
    return Driver(
        spec,
        ledger or new_ledger(spec),
        space=toy.space,
        epochs=epochs_of(spec),
        room=room,
        posthoc=toy.POSTHOC,
        **options,
    )


def run_inline(spec: SweepSpec) -> Ledger:
    """Runs a sweep of toy trials in this process, without Ray; its ledger, open."""
    driver = driver_of(spec)
    InlineBackend().run(driver)
    return driver.ledger


def facts(ledger: Ledger) -> list[Any]:
    """All that was decided and measured in a sweep."""
    return [(t.number, t.state.name, t.params, t.values, t.intermediate_values) for t in ledger.trials]


def asked(
    ledger: Ledger, space: Callable[[Any], dict[str, Any]], sampler: str = "random", startup: int | None = None
) -> FrozenTrial:
    """The next trial of a ledger, as a driver would ask for it."""
    chosen = sampler_class(sampler)(SamplerSettings(startup=startup))
    template, fields = propose(chosen, len(ledger.trials), ledger.directions, ledger.trials, space)
    template.user_attrs = TrialRecord(config=fields, data_fingerprint="f00d").as_attributes()
    return ledger.create_trial(template)


def toy_driver(folder: Path, *, slots: int = 2, **search: Any) -> Driver:
    """Of a new sweep `s` of toy trials of four epochs that minimises the loss, with the lease of its ledger."""
    spec = make_spec(
        {
            "name": "s",
            "trainable": "toy",
            "data": "none",
            "storage": str(folder),
            "objective": {"metric": "loss", "mode": "min"},
            "search": {"trials": 8, "sampler": "random", "eta": 2, **search},
            "fixed": {"epochs": 4},
        }
    )
    return driver_of(spec, room=Room(slots))
