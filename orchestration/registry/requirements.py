"""Serves a packaged model once in a fresh process: what it answers, and what must be installed for it to answer.

Run as `python -m refsweep.orchestration.registry.requirements TRAINABLE`, this file is that process: it records what
the model's code imports until the example is answered. Imports take seconds, so the process is started as soon as a
version is to be made, and gets the package once there is one.
"""

from __future__ import annotations

import builtins
import importlib.metadata
import json
import os
import subprocess
import sys
import types
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ..spec.errors import WorkFailedError

EXAMPLE, SERVED = "example.json", "served.json"  # what the process reads and writes in the folder that it is given
PYFUNC = ("mlflow", "pandas")  # distributions that pyfunc.py itself imports


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What came of serving a package once."""

    answer: Mapping[str, Sequence[Any]]  # to the example, by column
    requirements: Sequence[str]  # `name==version`, sorted


class ServingProcess:
    """A fresh process that serves one package; a context manager that ends it."""

    def __init__(self, trainable: str) -> None:
        """Starts to import the code of a trainable."""
        # -P: what lies in the working directory is not imported
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", __name__, trainable],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()  # closes the pipes

    def serve(self, folder: Path, example: Mapping[str, Sequence[Any]]) -> Served:
        """Serves the package at `folder`/package and lets it answer the example. Raises WorkFailedError if it can't."""
        (folder / EXAMPLE).write_text(json.dumps(example))
        errors = self._process.communicate(f"{folder}\n")[1]
        if self._process.returncode:
            raise WorkFailedError(f"the packaged model does not answer its example:\n{errors[-3000:]}")
        return Served(**json.loads((folder / SERVED).read_text()))


def requirements_of(imported: Iterable[str], loaded: Iterable[str]) -> list[str]:
    """The distributions that a model needs, pinned to the versions that are installed.

    Those are the owners of every module that the model's own code imports, and of every other module that was loaded
    although nothing among them declares it as a dependency. Declared dependencies are left to pip: some of them differ
    from machine to machine (CUDA's libraries, triton).

    Args:
        imported: top-level modules that code outside of any distribution imports, and refsweep's own.
        loaded: top-level modules of everything that was loaded.
    """
    from packaging.utils import canonicalize_name  # here, so that it is not among what the process has loaded

    owners = importlib.metadata.packages_distributions()
    needed = {name for module in imported for name in owners.get(module, ())} | set(PYFUNC)
    declared = closure(needed)
    for module in loaded:
        names = owners.get(module, [])
        if not any(canonicalize_name(name) in declared for name in names):
            needed.update(names)
    needed.discard("refsweep")  # travels as a wheel
    # without the build (`+cu128`), which only some indexes have
    return sorted(f"{name}=={importlib.metadata.version(name).partition('+')[0]}" for name in needed)


def closure(distributions: Iterable[str]) -> set[str]:
    """Canonical names of distributions and of all that they declare as dependencies on this machine."""
    from packaging.requirements import Requirement  # here, as in `requirements_of`
    from packaging.utils import canonicalize_name

    known: set[tuple[str, str]] = set()  # (name, extra); no extra is ""
    pending = [(canonicalize_name(name), "") for name in distributions]
    while pending:
        name, extra = pending.pop()
        if (name, extra) in known:
            continue
        known.add((name, extra))
        try:
            declared = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:  # for another platform, or left out on purpose
            continue
        for needed in map(Requirement, declared):
            if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                pending += [(canonicalize_name(needed.name), e) for e in ("", *needed.extras)]
    return {name for name, _ in known}


# -- the process -------------------------------------------------------------------------------------------


def main() -> None:
    """Imports a trainable, waits for a folder on stdin, serves the package in it and writes what came of it."""
    before = set(sys.modules)
    imports = _record_imports()
    from ...datasets.storage.store import Store  # here, as they are recorded
    from ...trainables import discovery
    from ...trainables.training.package import Package

    module = discovery.load(sys.argv[1])
    folder = Path(sys.stdin.readline().rstrip("\n"))
    example = json.loads((folder / EXAMPLE).read_text())
    answer = module.serve(Package.read(Store(str(folder / "package")))).predict(example)
    loaded = {name.partition(".")[0] for name in sys.modules.keys() - before}
    content = {"answer": answer, "requirements": requirements_of(_own(imports), loaded)}
    (folder / SERVED).write_text(json.dumps(content, default=lambda value: value.tolist()))  # of NumPy's
    os._exit(0)  # everything is written; taking torch apart takes half a second


def _record_imports() -> list[tuple[str, str]]:
    """(importing, imported) top-level module of every import statement from now on."""
    imports: list[tuple[str, str]] = []
    original = builtins.__import__

    def record(
        name: str,
        globals: Mapping[str, object] | None = None,  # noqa: A002  names of the original
        locals: Mapping[str, object] | None = None,  # noqa: A002
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> types.ModuleType:
        if level == 0:  # a relative import stays in its package
            importing = str((globals or {}).get("__name__", ""))
            imports.append((importing.partition(".")[0], name.partition(".")[0]))
        return original(name, globals, locals, fromlist, level)

    builtins.__import__ = record
    return imports


def _own(imports: Iterable[tuple[str, str]]) -> set[str]:
    """What code imports that is refsweep's or the user's: no distribution's and not Python's."""
    foreign = {
        module for module, names in importlib.metadata.packages_distributions().items() if "refsweep" not in names
    }
    foreign |= sys.stdlib_module_names
    return {imported for importing, imported in set(imports) if importing and importing not in foreign}


if __name__ == "__main__":
    main()
