"""Re-exports of a family's folder that import nothing before they are used (PEP 562).

The `__init__.py` of a family says which of its files has which public name:

    if typing.TYPE_CHECKING:
        from .config import Config
        from .model import Ikun

    __all__ = ["Config", "Ikun"]
    export(__name__, config=["Config"], model=["Ikun"])

So `from refsweep.trainables.ikun import Ikun` works, and importing the folder, or its config, loads no torch.
"""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Sequence
from typing import Any


def export(package: str, **files: Sequence[str]) -> None:
    """Makes names of a package's files (`file=[names]`) attributes of the package, imported at first use.

    A name wins over a file of the same name: with `losses=["losses"]`, `from package import losses` is the function,
    and the module is what `from package.losses import ...` and `sys.modules` know.
    """
    module = sys.modules[package]
    module.__class__ = _LazyPackage
    module.__dict__["_file_of"] = {name: file for file, names in files.items() for name in names}


class _LazyPackage(types.ModuleType):
    _file_of: dict[str, str]

    def __getattr__(self, name: str) -> Any:
        if name not in self._file_of:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f".{self._file_of[name]}", self.__name__), name)
        self.__dict__[name] = value
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self._file_of and isinstance(value, types.ModuleType):
            return  # the import system binds each file to its package: the public name comes first
        super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self._file_of})
