"""Which checkpoint a trial's value was measured with: its name and a digest, which a finished trial records."""

from __future__ import annotations

import hashlib

from ...trainables.training.checkpoints import MANIFEST, Checkpoint


def manifest_digest(checkpoint: Checkpoint) -> str:
    """sha256 of a checkpoint's manifest, which holds those of its files: equal digests are equal checkpoints, bit for
    bit."""
    return hashlib.sha256(checkpoint.store.read(f"{checkpoint.name}/{MANIFEST}")).hexdigest()
