"""Whether a checkpoint that lies in a trial's folder may be gone on from: names of folders repeat, weights don't say of
what they are.

A manifest names the sweep, the data and the code that it was written by. Those that earlier versions wrote lack some of
these, and what is not there is not compared.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from typing import Any

from ...datasets.problems import InputError
from .checkpoints import Checkpoint

log = logging.getLogger(__name__)


def refuse_foreign(checkpoint: Checkpoint, provenance: Mapping[str, Any], earlier_ids: Collection[str] = ()) -> None:
    """Raises InputError for a checkpoint of another sweep, of other data, or of another Config than `provenance` says.

    `earlier_ids` are of sweeps whose copy this one is: their checkpoints are its own too.
    """
    theirs, where = checkpoint.manifest, f"{checkpoint.store.uri}/{checkpoint.name}"
    if theirs.get("sweep_id") not in (None, *earlier_ids) and _differ("sweep_id", theirs, provenance):
        raise InputError(
            f"{where} is of another sweep of this name: its id is {theirs['sweep_id']}, this one's is "
            f"{provenance['sweep_id']}. Give this sweep another name or another storage"
        )
    if _differ("data", theirs, provenance):
        raise InputError(
            f"{where} was trained on other data: its fingerprint is {theirs['data']}, now it is {provenance['data']}. "
            "Use the earlier data, or start a new sweep in another storage"
        )
    if _differ("config", theirs, provenance):
        raise InputError(f"{where} was written under another Config")


def _differ(field: str, theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> bool:
    one, other = theirs.get(field), ours.get(field)
    return one is not None and other is not None and one != other


def codes(checkpoint: Checkpoint, provenance: Mapping[str, Any]) -> list[str]:
    """Versions of the code that have trained what a checkpoint holds and what will follow, oldest first. Warns when
    another one wrote it."""
    theirs, own = checkpoint.manifest.get("code"), provenance.get("code")
    known = [*checkpoint.manifest.get("codes", [theirs] if theirs else [])]
    if own and theirs and own != theirs:
        log.warning(
            "%s/%s was written by another version of the code (%s) than the one that goes on from it (%s)",
            checkpoint.store.uri,
            checkpoint.name,
            theirs,
            own,
        )
    return known if not own or known[-1:] == [own] else [*known, own]
