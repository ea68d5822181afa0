"""Checkpoints that can be trusted: atomic, checksummed, without pickles; the newest complete one wins.

    <folder>/epoch-0007.<attempt>/             after 7 epochs
    <folder>/epoch-0007-batch-00012.<attempt>/ 12 batches into the eighth
        model.safetensors   weights and buffers
        state.pt            optimiser, EMA, random states; loads with weights_only=True
        manifest.json       sha256 of both, fingerprints, attempt, history of all epochs; written last

A folder without a true manifest does not exist. Attempts count up at every start of a trial: what a process
left over from an earlier attempt still writes ranks below everything the current one has written.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor

from ...datasets.storage.store import Store

MODEL, STATE, MANIFEST = "model.safetensors", "state.pt", "manifest.json"
FORMAT = 1
_NAME = re.compile(r"epoch-(\d{4,})(?:-batch-(\d{5,}))?\.(\d+)")


@dataclass(frozen=True, slots=True, order=True)
class Name:
    """A checkpoint's place; sorts by which of two is valid: attempt, then progress."""

    attempt: int
    epoch: int  # finished
    batch: int = 0  # finished in the next epoch

    def __str__(self) -> str:
        inside = f"-batch-{self.batch:05d}" if self.batch else ""
        return f"epoch-{self.epoch:04d}{inside}.{self.attempt}"

    @classmethod
    def parse(cls, text: str) -> Name | None:
        """The name in a folder's name, None when it is none."""
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
        """Results of the finished epochs, as `EpochResult.as_json` gives them."""
        return list(self.manifest["history"])

    def model(self) -> dict[str, Tensor]:
        """Weights and buffers. Raises TornError when the file is not what was written."""
        return load_safetensors(self._read(MODEL))

    def state(self) -> dict[str, Any]:
        """Optimiser, averaged weights, random states, place in the plan. Raises TornError."""
        return dict(torch.load(io.BytesIO(self._read(STATE)), weights_only=True))

    def _read(self, file: str) -> bytes:
        content = self.store.read(f"{self.name}/{file}")
        if hashlib.sha256(content).hexdigest() != self.manifest["files"][file]["sha256"]:
            raise TornError(f"{self.store.uri}/{self.name}/{file} is not what was written")
        return content


class TornError(RuntimeError):
    """A checkpoint that was edited or cut after it was written."""


def packed(model: Mapping[str, Tensor], state: Mapping[str, Any]) -> dict[str, bytes]:
    """The files of a checkpoint but its manifest: a copy, which training does not change any more."""
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    contiguous = {key: value.detach().cpu().contiguous() for key, value in model.items()}
    return {MODEL: save_safetensors(contiguous), STATE: buffer.getvalue()}


class Checkpoints:
    """The checkpoints of one trial."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def names(self) -> list[Name]:
        """Names of folders, the newest attempt's latest first; not all need be complete."""
        parsed = (Name.parse(name) for name in self.store.names())
        return sorted((name for name in parsed if name), reverse=True)

    def save(
        self,
        name: Name,
        model: Mapping[str, Tensor],
        state: Mapping[str, Any],
        manifest: Mapping[str, Any],
        keep: set[int],
    ) -> None:
        """Writes a checkpoint, then removes all but the two newest and those of the epochs in `keep`.

        `manifest` has its own entries beside those of every manifest: history, fingerprints, whether the training is
        over.
        """
        self.write(name, packed(model, state), manifest, keep)

    def write(self, name: Name, files: Mapping[str, bytes], manifest: Mapping[str, Any], keep: set[int]) -> None:
        """`save` from files that are `packed`."""
        for file, content in files.items():
            self.store.write(f"{name}/{file}", content)
        sums = {f: {"sha256": hashlib.sha256(c).hexdigest(), "bytes": len(c)} for f, c in files.items()}
        entries = {
            "format": FORMAT,
            "epoch": name.epoch,
            "batch": name.batch,
            "attempt": name.attempt,
            "files": sums,
            **manifest,
        }
        self.store.write(f"{name}/{MANIFEST}", json.dumps(entries, indent=1).encode())
        self._tidy(name, keep)

    def _tidy(self, newest: Name, keep: set[int]) -> None:
        older = [name for name in self.names() if name < newest]
        for name in older[1:]:
            if name.epoch not in keep or name.batch:
                self.store.delete(str(name))

    def copy_from(self, other: Checkpoint) -> None:
        """Takes another trial's checkpoint to start from; it ranks below all that this trial will write."""
        name = Name(0, other.name.epoch, other.name.batch)
        for file in (MODEL, STATE):
            self.store.write(f"{name}/{file}", other._read(file))
        self.store.write(f"{name}/{MANIFEST}", json.dumps(other.manifest, indent=1).encode())

    def newest(self, *, verify: bool = True) -> Checkpoint | None:
        """The first complete checkpoint of `names` whose files are as they were written; None where there is none.

        Without `verify` only manifests are read, for their history.
        """
        for name in self.names():
            checkpoint = self.open(name, verify=verify)
            if checkpoint is not None:
                return checkpoint
        return None

    def at_epoch(self, epoch: int) -> Checkpoint | None:
        """The first complete checkpoint of `names` that was written at the end of an epoch; None where there is
        none."""
        for name in self.names():
            if name.epoch == epoch and not name.batch:
                checkpoint = self.open(name)
                if checkpoint is not None:
                    return checkpoint
        return None

    def open(self, name: Name, *, verify: bool = True) -> Checkpoint | None:
        """A checkpoint by name; None when it is not complete or not true."""
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
