"""Reads tensors from torch files that `weights_only=True` refuses, without running anything in them.

A published checkpoint may carry a pickled optimiser, and OpenAI's CLIP files are TorchScript archives. Here
a pickle may only build tensors and plain containers; every other name it mentions becomes an inert `Stub`,
which remembers what it was given and calls nothing.

What a file may come to is limited, since a few hundred bytes can stand for gigabytes: the constants MOST_... below.
"""

from __future__ import annotations

import io
import math
import pickletools
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Collection
from pickle import Unpickler, UnpicklingError  # noqa: TID251  the restricted kind is built from it
from typing import Any, BinaryIO, ClassVar

import numpy as np
import torch
from torch import Tensor

from ...datasets.problems import InputError
from .names import unwrapped

MOST_PICKLE = 4 << 20  # bytes of data.pkl, which has some hundred for a tensor
MOST_INFLATION = 8  # times the size of the file; torch does not compress tensors
LEAST_INFLATED = 256 << 20  # bytes that any file may come to
MOST_ENTRIES = 200_000  # of all dicts
MOST_DEPTH = 64  # dicts and modules in each other
MOST_NAME = 1_000  # characters of a tensor's name with all that it lies in
MOST_STUBS = 10_000  # kinds of objects that are not built
_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the magic number that torch wrote before 1.6

_DTYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
# Of Python's own modules a checkpoint needs only what holds or restores data; a mention of any other, or of
# a builtin that is no plain type, says what the file is for.
_DATA_MODULES = frozenset(
    ("argparse", "collections", "copyreg", "datetime", "enum", "functools", "types", "typing", "_codecs")
)
_PLAIN_TYPES = frozenset(
    (
        "bool",
        "bytearray",
        "bytes",
        "complex",
        "dict",
        "float",
        "frozenset",
        "int",
        "list",
        "object",
        "range",
        "set",
        "slice",
        "str",
        "tuple",
    )
)


def _is_refused(module: str, name: str) -> bool:
    root = module.partition(".")[0]
    if root in ("builtins", "__builtin__"):
        return name not in _PLAIN_TYPES
    return root in sys.stdlib_module_names and root not in _DATA_MODULES


class Stub:
    """Stands for an object we do not build; holds its state, if any."""

    state: ClassVar[Any] = None

    def __init__(self, *_: Any, **__: Any) -> None:
        self.items: list[Any] = []

    def __setstate__(self, state: Any) -> None:
        self.__dict__["state"] = state

    def append(self, item: Any) -> None:
        """Lets a pickle fill what it takes for a list."""
        self.__dict__.setdefault("items", []).append(item)

    def extend(self, items: Any) -> None:
        """The same, many at once."""
        self.__dict__.setdefault("items", []).extend(items)

    def __setitem__(self, key: Any, value: Any) -> None:
        self.__dict__.setdefault("items", []).append((key, value))


class _Reader(Unpickler):
    """Builds what a pickle may build, and keeps account of how much that is."""

    def __init__(self, file: BinaryIO, archive: zipfile.ZipFile, prefix: str, most_bytes: int) -> None:
        super().__init__(file)
        self.archive, self.prefix, self.most_bytes = archive, prefix, most_bytes
        self._stored: dict[Any, Tensor] = {}
        self._stubs: dict[tuple[str, str], type[Stub]] = {}
        self._inflated = self._built = self._entries = 0

    def find_class(self, module: str, name: str) -> Any:
        if _is_refused(module, name):
            raise UnpicklingError(f"it wants to call {module}.{name}")
        if module == "torch._utils" and name == "_rebuild_tensor_v2":
            return self._rebuild_tensor
        if module == "torch._utils" and name == "_rebuild_parameter":
            return _rebuild_parameter
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        if (module, name) == ("collections", "OrderedDict"):
            return self._ordered
        if len(self._stubs) >= MOST_STUBS:
            raise UnpicklingError(f"it names more than {MOST_STUBS:,} things that are no tensors")
        return self._stubs.setdefault((module, name), type(name, (Stub,), {"__module__": module}))

    def persistent_load(self, pid: Any) -> Any:
        kind, dtype, key, _, count = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype):
            raise UnpicklingError(f"unknown storage {pid!r}")
        if key not in self._stored:
            self._stored[key] = self._storage(key)
        raw, width = self._stored[key], torch.empty(0, dtype=dtype).element_size()
        if len(raw) < count * width:
            raise UnpicklingError(f"storage {key} is cut off")
        return raw[: len(raw) // width * width].view(dtype)

    def _storage(self, key: Any) -> Tensor:
        entry = self.archive.getinfo(f"{self.prefix}/data/{key}")
        self._inflated += entry.file_size
        self._check(self._inflated, "inflates")
        return torch.from_numpy(np.frombuffer(bytearray(self.archive.read(entry)), np.uint8))

    def _rebuild_tensor(
        self, storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any
    ) -> Tensor:
        self._built += math.prod(size) * storage.element_size()
        self._check(self._built, "unfolds")
        return storage.as_strided(tuple(size), tuple(stride), offset)

    def _ordered(self, items: Any = ()) -> OrderedDict[Any, Any]:
        self._entries += len(items)
        if self._entries > MOST_ENTRIES:
            raise UnpicklingError(f"it holds more than {MOST_ENTRIES:,} entries")
        return OrderedDict(items)

    def _check(self, count: int, how: str) -> None:
        if count > self.most_bytes:
            raise UnpicklingError(f"it {how} to more than {self.most_bytes >> 20:,} MiB")


def _rebuild_parameter(tensor: Tensor, *_: Any) -> Tensor:
    return tensor


def read_archive(file: BinaryIO, where: str) -> Any:
    """The content of a torch zip file: tensors, containers and plain values; all else is a `Stub`.

    Raises InputError when the file is no such archive, is torn, mentions what could run a program, or is larger inside
    than the limits of this module allow.
    """
    size = file.seek(0, 2)
    file.seek(0)
    _check_kind(file.read(64), where)
    most_bytes = max(LEAST_INFLATED, MOST_INFLATION * size)
    try:
        with zipfile.ZipFile(file) as archive:
            pickles = [entry for entry in archive.infolist() if entry.filename.endswith("/data.pkl")]
            if len(pickles) != 1:
                raise InputError(f"{where} is no torch file: expected one data.pkl in it, got {len(pickles)}")
            if pickles[0].file_size > MOST_PICKLE:
                raise UnpicklingError(f"its data.pkl is larger than {MOST_PICKLE >> 20} MiB")
            prefix = pickles[0].filename.rpartition("/")[0]
            if f"{prefix}/byteorder" in archive.namelist() and archive.read(f"{prefix}/byteorder") == b"big":
                raise UnpicklingError("it was written on a machine of the other byte order")
            content = archive.read(pickles[0])
            _scan(content)
            return _Reader(io.BytesIO(content), archive, prefix, most_bytes).load()
    except InputError:
        raise
    except UnpicklingError as error:
        raise InputError(f"{where} is refused: {error}") from None
    except Exception as error:  # noqa: BLE001  a torn or hostile file may fail anywhere
        raise InputError(f"{where} can't be read as a torch file: {' '.join(repr(error).split())[:300]}") from None


def _check_kind(head: bytes, where: str) -> None:
    """Raises InputError with what a file is that is often given in place of a torch file."""
    if head.startswith(_LEGACY) or b"sys_info" in head or b"././@PaxHeader" in head:
        raise InputError(
            f"{where} is in torch's old format, which is no zip file: load it with torch.load(weights_only=True), and "
            "write it again with torch.save"
        )
    if head.startswith(b"version https://git-lfs"):
        raise InputError(f"{where} is a pointer of Git LFS, not the file itself: run git lfs pull")
    if head.lstrip()[:5].lower() in (b"<html", b"<!doc"):
        raise InputError(f"{where} is a web page, not the file that it led to")
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 32:
        raise InputError(f"{where} is a safetensors file: its name must end with .safetensors")


def _scan(content: bytes) -> None:
    """Refuses opcodes that reach beyond names: extension registries, and places in a memo that would be as large."""
    for opcode, argument, _ in pickletools.genops(content):
        if opcode.name.startswith("EXT"):
            raise UnpicklingError(f"it uses the opcode {opcode.name}")
        if opcode.name.endswith("PUT") and int(argument or 0) > len(content):
            raise UnpicklingError(f"it uses the opcode {opcode.name} with {argument}")


def load_tensors(file: BinaryIO, where: str, wanted: Collection[str] = ()) -> dict[str, Tensor]:
    """A flat state dict from a torch file: of the file itself, of what holds the model in it, or of a TorchScript
    module, without what wraps the names (`names.unwrapped`). Raises InputError."""
    flat: dict[str, Tensor] = {}
    seen = [0]
    _flatten(read_archive(file, where), "", flat, seen, where)
    if not flat:
        raise InputError(f"{where} holds no tensors")
    return unwrapped(flat, wanted, where)


def _flatten(content: Any, prefix: str, flat: dict[str, Tensor], seen: list[int], where: str, depth: int = 0) -> None:
    """Collects tensors by their names; `seen` counts all entries."""
    if depth > MOST_DEPTH:
        raise InputError(f"{where} is refused: it is nested more than {MOST_DEPTH} deep, or in itself")
    if len(prefix) > MOST_NAME:
        raise InputError(f"{where} is refused: it has a name of more than {MOST_NAME:,} characters")
    if isinstance(content, Tensor):
        flat[prefix] = content
    elif isinstance(content, Stub):
        _flatten(content.state, prefix, flat, seen, where, depth + 1)
    elif isinstance(content, dict):
        for name, value in content.items():
            seen[0] += 1
            if seen[0] > MOST_ENTRIES:
                raise InputError(f"{where} is refused: it holds more than {MOST_ENTRIES:,} entries")
            if isinstance(name, str):
                _flatten(value, f"{prefix}.{name}" if prefix else name, flat, seen, where, depth + 1)
