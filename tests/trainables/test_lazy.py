"""Families' folders re-export their public names, and importing a folder or a Config loads no torch."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest
from refsweep.trainables import discovery

ROOT = Path(discovery.__file__).parent
FOLDERS = sorted(path.parent.name for path in ROOT.glob("*/__init__.py"))


def promised(name: str) -> set[str]:
    """The names that type checkers see in a family's `__init__.py`."""
    tree = ast.parse((ROOT / name / "__init__.py").read_text())
    (guarded,) = (node for node in tree.body if isinstance(node, ast.If))
    imports = (node for node in guarded.body if isinstance(node, ast.ImportFrom))
    return {alias.asname or alias.name for node in imports for alias in node.names}


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_gives_what_it_promises(name: str):
    package = importlib.import_module(f"refsweep.trainables.{name}")
    assert promised(name) == set(package.__all__) == set(package._file_of)
    for public, file in package._file_of.items():
        module = importlib.import_module(f"refsweep.trainables.{name}.{file}")
        assert getattr(package, public) is getattr(module, public)
        assert public in dir(package)
    assert {"Config", "Task", "METRICS"} <= set(package.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        package.nonsense  # noqa: B018
    with pytest.raises(ImportError):
        exec(f"from refsweep.trainables.{name} import nonsense")  # noqa: S102


def test_documented_names_are_there():
    from refsweep.trainables.ikun import Config, Ikun, Task, from_reference

    assert Ikun.__module__ == "refsweep.trainables.ikun.model"
    assert from_reference.__module__ == "refsweep.trainables.ikun.reference"
    assert Task.__module__ == "refsweep.trainables.ikun.task"
    assert Config is discovery.load_config("ikun")


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_and_its_config_load_no_torch(name: str):
    code = f"""
import sys
import refsweep.trainables.{name}
before = {{"torch", "numpy"}} & set(sys.modules)
from refsweep.trainables.{name} import Config
from refsweep.trainables import coercion, discovery
coercion.make_config(discovery.load_config({name!r}), {{}})
print(sorted(before), sorted({{"torch", "scipy", "open_clip", "transformers", "ray"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] []"


def test_a_name_wins_over_a_file_of_the_same_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "family_of_a_test"
    folder.mkdir()
    (folder / "losses.py").write_text("def losses():\n    return 1\n")
    (folder / "other.py").write_text("from .losses import losses\nVALUE = losses()\n")
    init = 'from refsweep.trainables.lazy import export\nexport(__name__, losses=["losses"], other=["VALUE"])\n'
    (folder / "__init__.py").write_text(init)
    monkeypatch.syspath_prepend(str(tmp_path))
    package = importlib.import_module("family_of_a_test")
    assert package.VALUE == 1  # the file has been imported by now
    assert package.losses() == 1
    assert sys.modules["family_of_a_test.losses"].losses is package.losses
