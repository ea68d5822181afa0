"""Lists the packages: every folder of the rooms that holds code. All else stands in pyproject.toml."""

from __future__ import annotations

from pathlib import Path

from setuptools import setup

ROOMS = ("benchmarks", "cluster", "datasets", "orchestration", "search_spaces", "trainables")


def packages(root: Path) -> list[str]:
    """Names of the package and of the folders below it, at the root of a checkout."""
    folders = {path.parent.relative_to(root) for room in ROOMS for path in (root / room).rglob("*.py")}
    return ["refsweep", *sorted(".".join(("refsweep", *folder.parts)) for folder in folders)]


if __name__ == "__main__":
    setup(packages=packages(Path(__file__).parent), script_name="setup.py")  # named, it is no module of the package
