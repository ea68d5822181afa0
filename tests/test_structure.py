"""The rooms of the house: who may import whom, and what must not lie where."""

from __future__ import annotations

import ast
import importlib.util
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("orchestration", "trainables", "search_spaces", "datasets", "cluster")
OURS = {
    "orchestration": set(ROOMS),
    "trainables": {"trainables", "datasets"},
    "search_spaces": {"search_spaces"},
    "datasets": {"datasets"},
    "cluster": {"cluster"},
}
FOREIGN = {
    "trainables": {"ray", "optuna", "mlflow"},
    "search_spaces": {"ray", "mlflow", "torch"},
    "datasets": {"optuna", "mlflow", "torch"},
}


def sources(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """(line, absolute dotted name) of every import of a file of the package."""
    package = ("refsweep", *path.relative_to(ROOT).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            stem = ".".join(part for part in (base, node.module) if part)
            for alias in node.names:
                yield node.lineno, f"{stem}.{alias.name}"


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_what_it_may(room: str):
    wrong = []
    for path in sources(room):
        for line, name in imports(path):
            parts = name.split(".")
            if parts[0] == "refsweep" and len(parts) > 1 and parts[1] in ROOMS and parts[1] not in OURS[room]:
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports {name}")
            in_stream = path.name == "stream.py" and parts[0] == "ray"
            if parts[0] in FOREIGN.get(room, ()) and not in_stream:
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports {name}")
    assert not wrong, "\n".join(wrong)


# Each room of `orchestration` imports only rooms to its right, and itself; `verbs` are its flat files.
ORCHESTRATION = ("cli", "verbs", "jobs", "execution", "search", "registry", "tracking", "ledger", "spec")


def room_of(module: str) -> str | None:
    """The room of `orchestration` that a module lies in."""
    parts = module.split(".")
    if parts[:2] != ["refsweep", "orchestration"] or len(parts) < 3:
        return None
    return parts[2] if (ROOT / "orchestration" / parts[2]).is_dir() else "verbs"


def test_rooms_of_orchestration_import_only_rooms_to_their_right():
    wrong = []
    for path in sources("orchestration"):
        own = room_of(".".join(("refsweep", *path.relative_to(ROOT).with_suffix("").parts)))
        assert own in ORCHESTRATION, f"{path.relative_to(ROOT)} is in no known room"
        for line, name in imports(path):
            room = room_of(name)
            if room is not None and ORCHESTRATION.index(room) < ORCHESTRATION.index(own):
                wrong.append(f"{path.relative_to(ROOT)}:{line}: {own} imports {name}, of {room}")
    assert not wrong, "\n".join(wrong)


def test_no_files_import_each_other_in_a_circle():
    files = {".".join(("refsweep", *p.relative_to(ROOT).with_suffix("").parts)): p for r in ROOMS for p in sources(r)}

    def module(name: str) -> str | None:
        return next((n for n in (name, name.rpartition(".")[0]) if n in files), None)

    arrows = {name: {m for _, i in imports(path) if (m := module(i)) and m != name} for name, path in files.items()}
    while leaves := [name for name, targets in arrows.items() if not targets & arrows.keys()]:
        for leaf in leaves:
            del arrows[leaf]
    assert not arrows, f"these import each other, or what does: {', '.join(sorted(arrows))}"


def test_files_and_functions_stay_small():
    long = []
    for path in (p for room in ROOMS for p in sources(room)):
        text = path.read_text()
        if text.count("\n") > 300:
            long.append(f"{path.relative_to(ROOT)} has {text.count(chr(10))} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > 60:
                    long.append(f"{path.relative_to(ROOT)}:{node.lineno}: {node.name} has {lines} lines")
    assert not long, "\n".join(long)


SHARED = {"coercion", "contract", "discovery", "training"}  # what orchestration may import of trainables


def test_orchestration_knows_no_model_by_name():
    """A family is found by its name and asked through its module; the demo may name the example file that it runs."""
    families = sorted(path.parent.name for path in (ROOT / "trainables").glob("*/task.py"))
    named = re.compile(rf"\b(?:{'|'.join(families)})\b")
    wrong = []
    for path in sources("orchestration"):
        where = path.relative_to(ROOT)
        for line, name in imports(path):
            parts = name.split(".")
            if parts[:2] == ["refsweep", "trainables"] and len(parts) > 2 and parts[2] not in SHARED:
                wrong.append(f"{where}:{line} imports {name}")
        for number, text in enumerate(path.read_text().splitlines(), 1):
            example = where == Path("orchestration/cli/demo.py") and text.startswith("EXAMPLE = ")
            if named.search(text) and not example:
                wrong.append(f"{where}:{number} names a model: {text.strip()}")
    assert not wrong, "\n".join(wrong)


def test_the_import_reader_sees_relative_and_absolute_imports(tmp_path: Path):
    names = {name for _, name in imports(ROOT / "datasets" / "made" / "refer_kitti.py")}
    assert "refsweep.datasets.layouts.shared.kitti" in names
    assert "refsweep.datasets.storage.store.Store" in names
    assert "numpy" in names


def test_only_the_root_and_families_have_an_init_file():
    """A folder that holds a `task.py` may re-export its public names; `datasets/` must stay a namespace."""
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*__init__.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    folders = {(ROOT / line).parent for line in tracked.stdout.splitlines()}
    assert ROOT in folders
    assert folders - {ROOT} <= {path.parent for path in (ROOT / "trainables").glob("*/task.py")}


def test_hugging_faces_datasets_is_not_shadowed_from_the_checkout():
    """With the checkout as working folder, `import datasets` finds the installed package, or nothing regular."""
    code = "import importlib.util as u; s = u.find_spec('datasets'); print(s.origin if s else None)"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not found.stdout.startswith(str(ROOT / "datasets"))


def test_every_folder_with_code_is_packaged():
    listed = runpy.run_path(str(ROOT / "setup.py"))["packages"](ROOT)
    tracked = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True)
    files = [Path(line) for line in tracked.stdout.splitlines()]
    folders = {file.parent for file in files if file.parts[0] in (*ROOMS, "benchmarks")}
    assert set(listed) == {"refsweep"} | {".".join(("refsweep", *folder.parts)) for folder in folders}


def test_what_runs_leave_is_not_committed():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert [
        line for line in tracked.stdout.splitlines() if re.search(r"\.(db|db-wal|lease|log|pyc|pt|png)$", line)
    ] == [
        "docs/query.png",
        "docs/tracked.png",
    ]


def test_the_lock_names_no_index():
    lock = (ROOT / "requirements.lock").read_text()
    assert "--index" not in lock
    assert "://" not in lock
    assert lock.count("--hash=sha256:") > 100


def test_the_package_imports_without_its_heavy_dependencies():
    """`import refsweep` costs nothing: a trial's process decides itself what it loads."""
    code = "import sys, refsweep; print(sorted({'torch','ray','mlflow','optuna'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
    assert importlib.util.find_spec("refsweep") is not None
