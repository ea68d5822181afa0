"""Finds layouts and recipes by name: `refer-kitti` is `layouts/refer_kitti.py` and `made/refer_kitti.py`.

See `contract` for what these files offer. A file is imported when it is asked for.
"""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path
from typing import Any, cast

from .contract import Checker, Layout, Maker
from .problems import Findings, InputError, as_problems
from .storage.store import Store

PARTS = ("_check", "_parse", "_write")  # endings of files that belong to the layout they are named after
_HERE = Path(__file__).parent


def layouts() -> tuple[str, ...]:
    """Every layout's name, sorted."""
    stems = (path.stem for path in (_HERE / "layouts").glob("*.py"))
    return tuple(sorted(stem.replace("_", "-") for stem in stems if not stem.endswith(PARTS)))


def made_kinds() -> tuple[str, ...]:
    """Every layout that procedural data can be made in, sorted."""
    return tuple(name for name in layouts() if _file("made", name).is_file())


def layout(name: str) -> Layout:
    """A layout by its name. Raises InputError with the choices."""
    _one_of(layouts(), name, "layout")
    return cast(Layout, _load("layouts", name, ("EVIDENCE", "holds", "frame_files")))


def checker(name: str) -> Checker:
    """The checker of a layout. Raises InputError with the choices."""
    _one_of(layouts(), name, "layout")
    part = f"{name}_check"
    return cast(Checker, _load("layouts", part if _file("layouts", part).is_file() else name, ("check",)))


def maker(name: str, where: str = "kind") -> Maker:
    """What makes procedural data in a layout. `where` begins the InputError that lists the choices."""
    _one_of(made_kinds(), name, where)
    return cast(Maker, _load("made", name, ("Recipe", "make")))


def recognise(store: Store) -> str:
    """The name of the layout that a data set is in. Raises InputError where it is none, or several."""
    here = [name for name in layouts() if layout(name).holds(store)]
    if not here:
        evidence = "; ".join(f"{name} has {layout(name).EVIDENCE}" for name in layouts())
        raise InputError(f"no data set of a known layout here: {evidence}")
    if len(here) > 1:
        raise InputError(f"a data set must be in one layout, got files of {' and '.join(here)} in {store.uri}")
    return here[0]


def check(store: Store, *, decode: bool = True, **options: Any) -> tuple[str | None, Findings]:
    """(name of the layout or None, everything that is wrong and what is there).

    `options` are keywords of this layout's own check, as `tracks`; InputError where it has no such keyword.
    """
    try:
        name = recognise(store)
    except InputError as error:
        return None, Findings(as_problems(error, store.uri))
    run = checker(name).check
    unknown = sorted(options.keys() - inspect.signature(run).parameters.keys())
    if unknown:
        raise InputError(f"the check of {name} has no option {', '.join(unknown)}")
    try:
        return name, run(store, decode=decode, **options)
    except InputError as error:
        return name, Findings(as_problems(error, store.uri))


def _file(room: str, name: str) -> Path:
    return _HERE / room / f"{name.replace('-', '_')}.py"


def _one_of(choices: tuple[str, ...], name: str, where: str) -> None:
    if name not in choices:
        raise InputError(f"{where} must be one of {', '.join(choices)}, got {name!r}")


def _load(room: str, name: str, needs: tuple[str, ...]) -> Any:
    module = importlib.import_module(f".{room}.{_file(room, name).stem}", __package__)
    missing = [needed for needed in needs if not hasattr(module, needed)]
    if missing:
        raise InputError(f"{_file(room, name)} must define {', '.join(missing)}: see datasets/contract.py")
    return module
