"""A wheel of the running code, made from the imported package: models and jobs carry it."""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import zipfile
from pathlib import Path

import refsweep

_ROOMS = ("orchestration", "trainables", "search_spaces", "datasets", "cluster")


def write_wheel(folder: Path) -> Path:
    """Writes `refsweep-<version>-py3-none-any.whl` into a folder: every file of the package, and the metadata it was
    installed with. The same code gives the same bytes."""
    version = refsweep.__version__
    info = f"refsweep-{version}.dist-info"
    files = {f"refsweep/{name}": path.read_bytes() for name, path in _files()}
    files[f"{info}/METADATA"] = (importlib.metadata.distribution("refsweep").read_text("METADATA") or "").encode()
    files[f"{info}/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: refsweep\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files[f"{info}/entry_points.txt"] = b"[console_scripts]\nrefsweep = refsweep.orchestration.cli.main:main\n"
    record = [f"{name},sha256={_digest(content)},{len(content)}" for name, content in files.items()]
    files[f"{info}/RECORD"] = "\n".join([*record, f"{info}/RECORD,,", ""]).encode()
    target = folder / f"refsweep-{version}-py3-none-any.whl"
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as wheel:
        for name, content in files.items():
            wheel.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    return target


def code_hash() -> str:
    """A hash over every file that the wheel would hold: equal here and where the wheel was unpacked."""
    listing = "".join(f"{name} {_digest(path.read_bytes())}\n" for name, path in _files())
    return hashlib.sha256(listing.encode()).hexdigest()[:16]


def _files() -> list[tuple[str, Path]]:
    root = Path(str(refsweep.__file__)).parent
    paths = [root / "__init__.py", root / "py.typed", *(root / "examples").glob("*.yaml")]
    paths += [path for room in _ROOMS for path in (root / room).rglob("*.py")]
    return sorted((str(path.relative_to(root)), path) for path in paths)


def _digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
