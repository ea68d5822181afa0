"""Checkpoints that can be trusted: atomic, checksummed, without pickles; the newest complete one wins.

    <folder>/epoch-0007.<attempt>/             after 7 epochs
    <folder>/epoch-0007-batch-00012.<attempt>/ 12 batches into the eighth
        model.safetensors   weights and buffers
        state.pt            optimiser, EMA, random states; loads with weights_only=True
        manifest.json       sha256 of both and of itself, fingerprints, attempt, history of all epochs; written last

A folder without a true manifest does not exist. Attempts count up at every start of a trial: what a process
left over from an earlier attempt still writes ranks below everything the current one has written.

torch is imported inside functions: it takes two seconds, and who only asks what there is does not wait for it.
"""

from __future__ import annotations

import errno
import hashlib
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...datasets.problems import InputError
from ...datasets.storage.store import Store
from .sealed import digest_of, seal, unseal

if TYPE_CHECKING:
    from torch import Tensor

MODEL, STATE, MANIFEST = "model.safetensors", "state.pt", "manifest.json"
FORMAT = 1
_NAME = re.compile(r"epoch-(\d{4,})(?:-batch-(\d{5,}))?\.(\d+)")
# What says that one file is damaged; any other error is of the whole storage and tells nothing about a checkpoint.
_DAMAGED = {errno.EIO, errno.EBADMSG, errno.EUCLEAN, errno.ENOENT, errno.EISDIR, errno.ENOTDIR, errno.ELOOP}


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

    @property
    def digest(self) -> str:
        """Of the manifest, and so of all files: what tells this checkpoint from any other."""
        return digest_of(self.manifest)

    def model(self) -> dict[str, Tensor]:
        """Weights and buffers. Raises TornError when the file is not what was written."""
        from safetensors import SafetensorError
        from safetensors.torch import load

        content = self._read(MODEL)
        try:
            return load(content)
        except (SafetensorError, KeyError, ValueError) as error:
            raise self._torn(MODEL, f": {error}") from None

    def state(self) -> dict[str, Any]:
        """All else that training needs to go on: see `state.collect`. Raises TornError when the file is not what was
        written."""
        import torch

        content = self._read(STATE)
        try:
            return dict(torch.load(io.BytesIO(content), weights_only=True))
        except Exception as error:  # noqa: BLE001  bytes that were never a state may fail anywhere
            raise self._torn(STATE, f": {error}") from None

    def _read(self, file: str) -> bytes:
        content = self.store.read(f"{self.name}/{file}")
        if hashlib.sha256(content).hexdigest() != self.manifest["files"][file]["sha256"]:
            raise self._torn(file)
        return content

    def _torn(self, file: str, why: str = "") -> TornError:
        return TornError(f"{self.store.uri}/{self.name}/{file} is not what was written{why}")


Marks = dict[str, Any]  # by file: what a look at it says


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
        self._complete: dict[Name, Marks] = {}  # found or made complete by this object, and how they looked then

    def names(self) -> list[Name]:
        """Names of folders, most believable first; not all need be complete."""
        parsed = (Name.parse(name) for name in self.store.names())
        return sorted((name for name in parsed if name), reverse=True)

    def write(self, name: Name, files: Mapping[str, bytes], fields: Mapping[str, Any], keep: set[int]) -> None:
        """Writes a checkpoint of `packed` files, then removes what is older than the newest complete one before it, but
        for those of the epochs in `keep`: two complete ones are left, whatever became of the others.

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
        self.store.write(f"{name}/{MANIFEST}", seal(manifest))
        self._complete[name] = self._marks(name)
        self._tidy(name, keep)

    def _tidy(self, newest: Name, keep: set[int]) -> None:
        """Removes what ranks below the newest complete checkpoint that ranks below `newest`."""
        older = [name for name in self.names() if name < newest]
        last = next((place for place, name in enumerate(older) if self._is_complete(name)), len(older))
        for name in older[last + 1 :]:
            if name.epoch not in keep or name.batch:
                self.store.delete(str(name))
                self._complete.pop(name, None)

    def _is_complete(self, name: Name) -> bool:
        """Whether a checkpoint is what was written. Its files are read once, and not at all where this process wrote
        them: after that they are only looked at."""
        return self._complete.get(name) == self._marks(name) or self.open(name) is not None

    def _marks(self, name: Name) -> Marks:
        """How the files of a checkpoint look from outside: sizes, and in a folder when they were written."""
        if not self.store.is_local:
            return dict(self.store.walk(str(name)))
        marks: Marks = {}
        for file in (MODEL, STATE, MANIFEST):
            try:
                found = self.store.local_path(f"{name}/{file}").stat()
            except OSError:
                continue
            marks[file] = (found.st_size, found.st_mtime_ns, found.st_ino)
        return marks

    def copy_from(self, checkpoint: Checkpoint) -> None:
        """Copies another trial's checkpoint, to start from; it ranks below all that this trial will write. Raises
        TornError when one of its files is not what was written."""
        name = Name(0, checkpoint.name.epoch, checkpoint.name.batch)
        for file in (MODEL, STATE):
            self.store.write(f"{name}/{file}", checkpoint._read(file))
        self.store.write(f"{name}/{MANIFEST}", seal(checkpoint.manifest))

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
        """A checkpoint by name; None when it is not complete, can't be read from its disk, has a manifest that was
        edited, or, with `verify`, is not what was written. Raises what keeps all of the storage from being read."""
        marks = self._marks(name) if verify else None
        try:
            manifest = unseal(self.store.read(f"{name}/{MANIFEST}"))
            checkpoint = Checkpoint(self.store, name, manifest)
            if manifest["format"] != FORMAT or not all(isinstance(entry, dict) for entry in manifest["history"]):
                return None
            for file in (MODEL, STATE) if verify else ():
                checkpoint._read(file)
            if marks is not None:
                self._complete[name] = marks
            return checkpoint
        except InputError:
            raise
        except (FileNotFoundError, KeyError, TypeError, ValueError, TornError):
            return None
        except OSError as error:
            if error.errno in _DAMAGED:
                return None
            raise
