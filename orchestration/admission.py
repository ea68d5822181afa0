"""What is compared before a driver starts: a sweep's spec, places, data and search space with those of its trials."""

from __future__ import annotations

from ..datasets.problems import InputError
from .execution.backend import Backend
from .identity import moved_places
from .ledger.ledger import Ledger
from .search import walks
from .search.check import NO_GPU_HOURS
from .search.protocol import Room
from .spec.folders import sweep_folder
from .spec.read import differences
from .spec.schema import SweepSpec

PROBE = "WRITABLE"  # written to a new sweep's folder and deleted again


def changes(ledger: Ledger, spec: SweepSpec) -> list[str]:
    """How a spec differs from the one that a sweep's record holds; the last line says how to go on after a move."""
    moved, hint = moved_places(ledger.record.spec, spec)
    places = ("storage: ", "ledger: ", "tracking: ")
    changed = [line for line in differences(ledger.record.spec, spec.as_json()) if not line.startswith(places)]
    return [f"  {line}" for line in [*changed, *moved]] + ([hint] if moved else [])


def refuse_differences(ledger: Ledger, spec: SweepSpec) -> None:
    """Raises InputError where a sweep's spec is another than that of its trials; one without trials takes it."""
    changed = changes(ledger, spec)
    if changed and (ledger.trials or ledger.sweep != spec.name):
        lines = "\n".join(changed)
        raise InputError(f"sweep {spec.name!r} exists with another spec; give this one another name, or undo:\n{lines}")


def check_places(spec: SweepSpec, backend: Backend) -> Room | None:
    """Raises InputError for what a new sweep would be refused for once its ledger is there: a storage that can't be
    written, nodes that can't run it. The room, where nodes need not be waited for."""
    folder = sweep_folder(spec)
    try:
        folder.write(PROBE, b"")
        folder.delete(PROBE)
    except OSError as error:
        raise InputError(f"storage: {folder.uri} can't be written: {error}") from error
    if spec.resources.wait_s:
        return None
    room = backend.room(spec, lambda: False)
    refuse_gpu_hours(spec, room)
    return room


def refuse_gpu_hours(spec: SweepSpec, room: Room) -> None:
    """Raises InputError for a budget of GPU hours where trials get no GPU."""
    if spec.budget.gpu_hours is not None and not room.gpus_per_worker:
        raise InputError(f"budget.gpu_hours: {NO_GPU_HOURS}")


def refuse_other_data(ledger: Ledger, fingerprint: str) -> None:
    """Records the data's fingerprint. Raises InputError where trials were made with other data."""
    known = ledger.record.data_fingerprint
    if known is None or not ledger.trials:
        ledger.update_sweep(data_fingerprint=fingerprint)
    elif known != fingerprint:
        name = ledger.sweep
        raise InputError(f"the data has changed since sweep {name!r} began: it was {known}, it is {fingerprint}")


def refuse_other_space(ledger: Ledger, searched: walks.SpaceRecord) -> None:
    """Records the search space. Raises InputError where trials were drawn from another."""
    stored = ledger.record.space
    if ledger.trials:
        changed = walks.contradictions(ledger.trials, searched) if stored is None else walks.changes(stored, searched)
        if changed:
            lines = "\n".join(f"  {line}" for line in changed)
            raise InputError(
                f"the search space has changed since sweep {ledger.sweep!r} began; undo it, or name another:\n{lines}"
            )
    ledger.update_sweep(space=searched)
