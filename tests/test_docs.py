"""What README, CONTRIBUTING and docs say of files, folders and commands is true."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest
import typer
from refsweep.orchestration.cli.main import app
from typer.main import get_command

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("cluster/*.md")])
HISTORY = "CHANGELOG.md"  # may name what is gone
USERS = {"cluster/secrets/"}  # what readers make


def tracked() -> list[str]:
    """Paths of the repository's files, those to be committed too."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()


def folders(place: str = "") -> set[str]:
    """Folders directly under `place` that hold files of the repository, as `name/`."""
    inside = [path.removeprefix(place) for path in tracked() if path.startswith(place)]
    return {f"{path.partition('/')[0]}/" for path in inside if "/" in path and not path.startswith(".")}


def blocks(text: str) -> list[str]:
    """The contents of code blocks without a language."""
    return re.findall(r"^```\n(.*?)^```", text, re.M | re.S)


def tree() -> dict[str, set[str]]:
    """Of each top-level folder in the README's tree, what the tree lists in it."""
    lines = blocks((ROOT / "README.md").read_text().partition("\n## Tree\n")[2])[0].splitlines()
    found: dict[str, set[str]] = {}
    for line in lines:
        words = re.findall(r"[\w.-]+(?:\.py|/)", re.split(r"\s{3,}", line.strip())[0])
        if line.startswith(" "):
            found[list(found)[-1]] |= set(words)
        else:
            found |= {word: set() for word in words}
    return found


def test_the_readme_is_read_in_five_minutes():
    assert (ROOT / "README.md").read_text().count("\n") <= 150


def test_the_tree_of_the_readme_is_the_repository():
    listed = tree()
    assert set(listed) == folders()
    verbs = {path.name for path in (ROOT / "orchestration").glob("*.py")}
    assert listed["orchestration/"] == verbs | folders("orchestration/")
    assert listed["trainables/"] == folders("trainables/")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_to_files(document: Path):
    links = re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", document.read_text())
    missing = [link for link in links if "://" not in link and not (document.parent / link).exists()]
    assert missing == []


@pytest.mark.parametrize("document", [d for d in DOCUMENTS if d.name != HISTORY], ids=lambda path: path.name)
def test_files_that_are_named_exist(document: Path):
    """`folder/file.py` and `file.py`, from the root or any folder; `folder/` where its first part is ours."""
    text = document.read_text()
    names = set(re.findall(r"`((?:[\w.-]+/)*[\w.-]+\.(?:py|md|sh|yaml))`", text))
    names |= {n for n in re.findall(r"`((?:[\w.-]+/)+)`", text) if f"{n.partition('/')[0]}/" in folders()} - USERS
    files = {f"/{path}" for path in tracked()}
    missing = [n for n in names if not any(f.endswith(f"/{n}") or f.startswith(f"/{n}") for f in files)]
    assert missing == []


def test_the_files_of_a_family_are_those_that_contributing_lists():
    text = " ".join((ROOT / "CONTRIBUTING.md").read_text().split())
    listed = set(re.findall(r"\w+\.py", re.search(r"files of every family are `([^`]+)`", text)[1]))  # type: ignore[index]
    assert len(listed) == 8
    families = [path.parent for path in (ROOT / "trainables").glob("*/task.py")]
    assert len(families) >= 4
    for family in families:
        files = {path.name for path in family.glob("*.py")}
        assert "task.py" in files
        assert files >= listed or family.name == "toy"


def commands() -> list[tuple[str, list[str]]]:
    """(document, words) of every `refsweep ...` line in a code block, without comments and redirections."""
    found = []
    for document in DOCUMENTS:
        for block in blocks(document.read_text()):
            for line in block.replace("\\\n", " ").splitlines():
                for part in re.split(r"\s*(?:&&|\|\|?)\s*", line):
                    words = shlex.split(re.split(r"\s[#>]\s?", part)[0]) if part.startswith("refsweep ") else []
                    if words:
                        found.append((document.name, words[1:]))
    return found


def options_of(words: list[str]) -> set[str]:
    """The options of the command that `words` begin with. Raises KeyError where there is no such command."""
    command = get_command(app)
    context = typer.Context(command)
    for word in words:
        if not hasattr(command, "get_command") or word.startswith("-"):
            break
        chosen = command.get_command(context, word)
        if chosen is None:
            raise KeyError(" ".join(words))
        command = chosen
    return {option for parameter in command.params for option in parameter.opts} | {"--help"}


def test_the_commands_in_documents_and_their_options_exist():
    assert len(commands()) > 40
    wrong = []
    for document, words in commands():
        own = words[: words.index("--")] if "--" in words else words
        given = {word.partition("=")[0] for word in own if word.startswith("--")}
        unknown = given - options_of(words)
        if unknown:
            wrong.append(f"{document}: refsweep {' '.join(words)}: {', '.join(sorted(unknown))}")
    assert wrong == []
