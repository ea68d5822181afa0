"""Makes the places that a spec names mean the same from any working directory."""

from __future__ import annotations

from pathlib import Path

from .locations import sqlite_path
from .schema import SweepSpec, make_spec


def settle(spec: SweepSpec) -> SweepSpec:
    """The spec with absolute paths in `storage`, `data`, `ledger` and `tracking`; URLs stay as they are."""
    content = spec.as_json()
    if not spec.storage.startswith("s3://"):
        content["storage"] = str(Path(spec.storage).expanduser().absolute())
    if spec.data != "none" and "://" not in spec.data and not spec.data.startswith("made:"):
        content["data"] = str(Path(spec.data).expanduser().absolute())
    for name in ("ledger", "tracking"):
        path = sqlite_path(content[name]) if content[name] else None
        if path is not None:
            content[name] = f"sqlite:///{path}"
    return make_spec(content)
