"""What code and libraries a process runs, and how that differs from another's. Needs nothing but Python itself:
it must say what is missing where everything is."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Mapping

from .wheel import code_hash

_TITLES = {"python": "Python", "ray": "Ray", "torch": "torch", "refsweep": "refsweep"}


def versions() -> dict[str, str]:
    """Of Python, Ray, torch and refsweep here; `none` where there is none. refsweep's is the hash of its code."""
    return {"python": platform.python_version(), "ray": _of("ray"), "torch": _of("torch"), "refsweep": code_hash()}


def _of(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "none"


def mismatches(wanted: Mapping[str, str], found: Mapping[str, str], who: str) -> list[str]:
    """What `who` has in another version than the machine that submits, one line each.

    Python counts to its minor version, torch without its build (`+cu128`): a laptop without a GPU submits to a cluster
    that has some. Ray and refsweep must be the same.
    """
    return [
        f"{who} has {title} {found[name]}, the machine that submits has {wanted[name]}"
        for name, title in _TITLES.items()
        if name in found and _kind(name, found[name]) != _kind(name, wanted[name])
    ]


def _kind(name: str, version: str) -> str:
    if name == "python":
        return ".".join(version.split(".")[:2])
    return version.partition("+")[0] if name == "torch" else version
