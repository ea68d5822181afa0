"""Reads tensors from torch files that `weights_only=True` refuses, without running anything in them.

A published checkpoint may carry a pickled optimiser, and OpenAI's CLIP files are TorchScript archives. Here
a pickle may only build tensors and plain containers; every other name it mentions becomes an inert `Stub`,
which remembers what it was given and calls nothing.
"""

from __future__ import annotations

import io
import pickletools
import sys
import zipfile
from collections import OrderedDict
from pickle import Unpickler, UnpicklingError  # noqa: TID251  the restricted kind is built from it
from typing import Any, BinaryIO, ClassVar

import numpy as np
import torch
from torch import Tensor

from ...datasets.problems import InputError

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
    def __init__(self, file: BinaryIO, archive: zipfile.ZipFile, prefix: str) -> None:
        super().__init__(file)
        self.archive, self.prefix = archive, prefix

    def find_class(self, module: str, name: str) -> Any:
        if _is_refused(module, name):
            raise UnpicklingError(f"it wants to call {module}.{name}")
        if module == "torch._utils" and name == "_rebuild_tensor_v2":
            return _rebuild_tensor
        if module == "torch._utils" and name == "_rebuild_parameter":
            return _rebuild_parameter
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        return type(name, (Stub,), {"__module__": module})

    def persistent_load(self, pid: Any) -> Any:
        kind, dtype, key, _, count = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype):
            raise UnpicklingError(f"unknown storage {pid!r}")
        raw = self.archive.read(f"{self.prefix}/data/{key}")
        width = torch.empty(0, dtype=dtype).element_size()
        if len(raw) < count * width:
            raise UnpicklingError(f"storage {key} is cut off")
        return torch.from_numpy(np.frombuffer(bytearray(raw), np.uint8)).view(dtype)


def _rebuild_tensor(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    return storage.as_strided(tuple(size), tuple(stride), offset).clone()


def _rebuild_parameter(tensor: Tensor, *_: Any) -> Tensor:
    return tensor


def read_archive(file: BinaryIO, where: str) -> Any:
    """The content of a torch zip file: tensors, containers and plain values; all else is a `Stub`.

    Raises InputError when the file is no such archive, is torn, or mentions what could run a program.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            pickles = [n for n in archive.namelist() if n.endswith("/data.pkl")]
            if len(pickles) != 1:
                raise InputError(f"{where} is no torch file: expected one data.pkl in it, got {len(pickles)}")
            content = archive.read(pickles[0])
            _scan(content)
            return _Reader(io.BytesIO(content), archive, pickles[0].rpartition("/")[0]).load()
    except InputError:
        raise
    except UnpicklingError as error:
        raise InputError(f"{where} is refused: {error}") from None
    except Exception as error:  # noqa: BLE001  a torn or hostile file may fail anywhere
        raise InputError(f"{where} can't be read as a torch file: {error!r}") from None


def _scan(content: bytes) -> None:
    """Refuses opcodes that reach beyond names: extension registries."""
    for opcode, _, _ in pickletools.genops(content):
        if opcode.name.startswith("EXT"):
            raise UnpicklingError(f"it uses the opcode {opcode.name}")


def load_tensors(file: BinaryIO, where: str) -> dict[str, Tensor]:
    """A flat state dict from a torch file: of the file itself, of its entry `model` or `state_dict`, or of a
    TorchScript module; a leading `module.` of DataParallel is taken off. Raises InputError."""
    content = read_archive(file, where)
    for key in ("model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    flat: dict[str, Tensor] = {}
    _flatten(content, "", flat)
    if not flat:
        raise InputError(f"{where} holds no tensors")
    return {name.removeprefix("module."): tensor for name, tensor in flat.items()}


def _flatten(content: Any, prefix: str, flat: dict[str, Tensor]) -> None:
    if isinstance(content, Tensor):
        flat[prefix] = content
    elif isinstance(content, Stub):
        _flatten(content.state, prefix, flat)
    elif isinstance(content, dict):
        for name, value in content.items():
            if isinstance(name, str):
                _flatten(value, f"{prefix}.{name}" if prefix else name, flat)
