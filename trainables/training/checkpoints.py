"""Checkpoints that can be trusted: atomic, checksummed, without pickles; the newest complete one wins.

    <folder>/epoch-0007.<attempt>/             after 7 epochs
    <folder>/epoch-0007-batch-00012.<attempt>/ 12 batches into the eighth
        model.safetensors   weights and buffers
        state.pt            optimiser, EMA, random states; loads with weights_only=True
        manifest.json       sha256 of both, fingerprints, attempt, history of all epochs; written last

A folder without a true manifest does not exist. Attempts count up at every start of a trial: what a process
left over from an earlier attempt still writes ranks below everything the current one has written.

torch is imported inside functions: it takes two seconds, and who only asks what there is does not wait for it.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...datasets.storage.store import Store

if TYPE_CHECKING:
    from torch import Tensor

MODEL, STATE, MANIFEST = "model.safetensors", "state.pt", "manifest.json"
FORMAT = 1
_NAME = re.compile(r"epoch-(\d{4,})(?:-batch-(\d{5,}))?\.(\d+)")


@dataclass(frozen=True, slots=True, order=True)
class Name:
    """Which checkpoint of a trial; sorts by what should be believed: attempt, then progress."""

    attempt: int
    epoch: int  # finished epochs
    batch: int = 0  # finished batches of the next

    def __str__(self) -> str:
        inside = f"-batch-{self.batch:05d}" if self.batch else ""
        return f"epoch-{self.epoch:04d}{inside}.{self.attempt}"

    @classmethod
    def parse(cls, text: str) -> Name | None:
        """The checkpoint that a folder's name stands for; None when it stands for none."""
        match = _NAME.fullmatch(text)
        return cls(int(match[3]), int(match[1]), int(match[2] or 0)) if match else None


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A complete checkpoint, its manifest read, its files not yet."""

    store: Store
    name: Name
    manifest: Mapping[str, Any]

    @property
    def history(self) -> list[dict[str, Any]]:
        """What each finished epoch measured: `EpochResult`s as JSON, in order."""
        return list(self.manifest["history"])

    def model(self) -> dict[str, Tensor]:
        """Weights and buffers. Raises TornError when the file is not what was written."""
        from safetensors.torch import load

        return load(self._read(MODEL))

    def state(self) -> dict[str, Any]:
        """All else that training needs to go on: see `state.collect`. Raises TornError when the file is not what was
        written."""
        import torch

        return dict(torch.load(io.BytesIO(self._read(STATE)), weights_only=True))

    def _read(self, file: str) -> bytes:
        content = self.store.read(f"{self.name}/{file}")
        if hashlib.sha256(content).hexdigest() != self.manifest["files"][file]["sha256"]:
            raise TornError(f"{self.store.uri}/{self.name}/{file} is not what was written")
        return content


class TornError(RuntimeError):
    """A checkpoint that was edited or cut after it was written."""


def packed(model: Mapping[str, Tensor], state: Mapping[str, Any]) -> dict[str, bytes]:
    """The files of a checkpoint but its manifest, by name: a copy, which training does not change any more. `state` is
    tensors, numbers, text and plain containers."""
    import torch
    from safetensors.torch import save

    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    contiguous = {key: value.detach().cpu().contiguous() for key, value in model.items()}
    return {MODEL: save(contiguous), STATE: buffer.getvalue()}


class Checkpoints:
    """The checkpoints of one trial."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def names(self) -> list[Name]:
        """Names of folders, most believable first; not all need be complete."""
        parsed = (Name.parse(name) for name in self.store.names())
        return sorted((name for name in parsed if name), reverse=True)

    def write(self, name: Name, files: Mapping[str, bytes], fields: Mapping[str, Any], keep: set[int]) -> None:
        """Writes a checkpoint of `packed` files, then removes all but the two newest and those of the epochs in `keep`.

        `fields` are the manifest's beside what is known here: history, fingerprints, whether the training is over.
        """
        for file, content in files.items():
            self.store.write(f"{name}/{file}", content)
        sums = {f: {"sha256": hashlib.sha256(c).hexdigest(), "bytes": len(c)} for f, c in files.items()}
        manifest = {
            "format": FORMAT,
            "epoch": name.epoch,
            "batch": name.batch,
            "attempt": name.attempt,
            "files": sums,
            **fields,
        }
        self.store.write(f"{name}/{MANIFEST}", json.dumps(manifest, indent=1).encode())
        self._tidy(name, keep)

    def _tidy(self, newest: Name, keep: set[int]) -> None:
        older = [name for name in self.names() if name < newest]
        for name in older[1:]:
            if name.epoch not in keep or name.batch:
                self.store.delete(str(name))

    def copy_from(self, checkpoint: Checkpoint) -> None:
        """Copies another trial's checkpoint, to start from; it ranks below all that this trial will write. Raises
        TornError when one of its files is not what was written."""
        name = Name(0, checkpoint.name.epoch, checkpoint.name.batch)
        for file in (MODEL, STATE):
            self.store.write(f"{name}/{file}", checkpoint._read(file))
        self.store.write(f"{name}/{MANIFEST}", json.dumps(checkpoint.manifest, indent=1).encode())

    def newest(self, *, verify: bool = True) -> Checkpoint | None:
        """The most believable complete checkpoint whose files are what was written; None where there is none.

        Without `verify` only manifests are read, for their history.
        """
        opened = (self.open(name, verify=verify) for name in self.names())
        return next((checkpoint for checkpoint in opened if checkpoint is not None), None)

    def at_epoch(self, epoch: int) -> Checkpoint | None:
        """The most believable complete checkpoint written at the end of an epoch; None where there is none."""
        opened = (self.open(name) for name in self.names() if name.epoch == epoch and not name.batch)
        return next((checkpoint for checkpoint in opened if checkpoint is not None), None)

    def open(self, name: Name, *, verify: bool = True) -> Checkpoint | None:
        """A checkpoint by name; None when it is not complete, or, with `verify`, not what was written."""
        try:
            manifest = json.loads(self.store.read(f"{name}/{MANIFEST}"))
            checkpoint = Checkpoint(self.store, name, manifest)
            if manifest["format"] != FORMAT or not isinstance(manifest["history"], list):
                return None
            for file in (MODEL, STATE) if verify else ():
                checkpoint._read(file)
            return checkpoint
        except (FileNotFoundError, KeyError, TypeError, ValueError, TornError):
            return None
