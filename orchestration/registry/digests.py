"""Digests of the files of a registered version: taken when it is registered, compared when it is loaded."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from ...datasets.problems import InputError

DIGESTS = "refsweep.files"  # tag of a version, and key of the metadata in its MLmodel
ARTIFACTS = "artifacts"  # folder of what is loaded
_NOT_STORED = "registered_model_meta"  # MLflow writes it beside what it downloads


def digests_of(folder: Path) -> dict[str, str]:
    """sha256 of every file of a folder, by its path in it; without what Python and MLflow write into a copy."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    names = {path.relative_to(folder).as_posix(): path for path in files if "__pycache__" not in path.parts}
    return {name: sha256(path) for name, path in names.items() if name != _NOT_STORED}


def sha256(path: Path) -> str:
    """Of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check(folder: Path, tag: str | None, what: str) -> None:
    """Compares the files of a downloaded version, `what`, with its tag. Raises InputError where one was changed, is
    missing, or was added among the artifacts. A version without the tag was registered before versions had digests:
    nothing is known of its files."""
    if tag is None:
        return
    try:
        expected = dict(json.loads(tag))
    except (ValueError, TypeError):
        raise InputError(f"{what}: its tag {DIGESTS} is not what was written") from None
    found = {f"{ARTIFACTS}/{name}": digest for name, digest in digests_of(folder / ARTIFACTS).items()}
    found |= {name: sha256(folder / name) for name in expected if name not in found and (folder / name).is_file()}
    states = {
        "changed": [name for name in expected if name in found and found[name] != expected[name]],
        "missing": expected.keys() - found.keys(),
        "added": found.keys() - expected.keys(),
    }
    wrong = "; ".join(f"{', '.join(sorted(names))} {state}" for state, names in states.items() if names)
    if wrong:
        raise InputError(f"{what} is not what was registered: {wrong}")
