"""Which versions of code and libraries a process runs, and how they differ from another's.

Needs nothing but Python itself, so that it can report what is missing where everything is.
"""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Mapping

from .wheel import code_hash

_TITLES = {"python": "Python", "ray": "Ray", "torch": "torch", "refsweep": "refsweep"}


def versions() -> dict[str, str]:
    """Of Python, Ray, torch and refsweep in this process; `none` for one that is not installed.

    refsweep's is the hash of its code.
    """
    libraries = {name: _installed(name) for name in ("ray", "torch")}
    return {"python": platform.python_version(), **libraries, "refsweep": code_hash()}


def _installed(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "none"


def mismatches(expected: Mapping[str, str], actual: Mapping[str, str], who: str) -> list[str]:
    """How the versions of `who` differ from those of the machine that submits, one line each.

    Python is compared up to its minor version, torch without its build (`+cu128`): a laptop without a GPU may submit to
    a cluster with GPUs. Ray and refsweep must be equal.
    """
    return [
        f"{who} has {title} {actual[name]}, the machine that submits has {expected[name]}"
        for name, title in _TITLES.items()
        if name in actual and _compared(name, actual[name]) != _compared(name, expected[name])
    ]


def _compared(name: str, version: str) -> str:
    """The part of a version that must be equal."""
    if name == "python":
        return ".".join(version.split(".")[:2])
    return version.partition("+")[0] if name == "torch" else version
