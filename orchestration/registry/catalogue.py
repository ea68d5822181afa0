"""Reads what MLflow's registry holds: an error is never taken for absence, nor a page for the whole."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from ..spec.errors import WorkFailedError
from .history import Move, champions, moves_of, target
from .names import CHAMPION, UnknownModelError

PREVIOUS = "previous"
PAGE = 100  # models or versions a request; MLflow takes 1000 models
ABSENT = "RESOURCE_DOES_NOT_EXIST"


@contextlib.contextmanager
def plain_errors() -> Iterator[None]:
    """What MLflow raises inside as one line: WorkFailedError."""
    try:
        yield
    except Exception as error:
        from mlflow.exceptions import MlflowException  # here, since `make_client` sets what MLflow reads when imported

        if not isinstance(error, MlflowException):
            raise
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise WorkFailedError(f"MLflow: {lines[0][:500]}") from error


class Unless:
    """A context that goes on after an MLflow error of one of some codes."""

    def __init__(self, *codes: str) -> None:
        self.codes = codes

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        return getattr(error, "error_code", None) in self.codes


@dataclass(frozen=True, slots=True)
class Registered:
    """A registered model as it stands."""

    name: str
    versions: list[Any]  # those that exist, newest first; empty where there is no such model
    aliases: dict[str, str]  # those whose versions exist
    moves: list[Move]  # of its champion, oldest first

    @property
    def champion(self) -> str | None:
        """The version that is champion."""
        return self.aliases.get(CHAMPION)

    @property
    def before(self) -> str | None:
        """The version to which a rollback goes: by the history, or in a model without one, by its alias."""
        if not self.moves:
            return self.aliases.get(PREVIOUS)
        return target(champions(self.moves), self.champion, self.numbers)

    @property
    def numbers(self) -> set[str]:
        """Of the versions that exist."""
        return {str(version.version) for version in self.versions}

    def version(self, number: str) -> Any:
        """A version by its number. Raises UnknownModelError."""
        found = next((v for v in self.versions if str(v.version) == number), None)
        if found is None:
            there = ", ".join(sorted(self.numbers, key=int)) or "none"
            raise UnknownModelError(f"model {self.name!r} has no version {number!r}; there are: {there}")
        return found


def read(client: Any, name: str) -> Registered:
    """A model by name; one without versions where MLflow says that it does not exist."""
    stored = None
    with Unless(ABSENT):
        stored = client.get_registered_model(name)
    if stored is None:
        return Registered(name, [], {}, [])
    versions = _versions(client, name)
    there = {str(version.version) for version in versions}
    aliases = {alias: str(at) for alias, at in stored.aliases.items() if str(at) in there}
    return Registered(name, versions, aliases, moves_of(stored.tags))


def names(client: Any) -> list[str]:
    """Of all registered models."""
    return [model.name for model in _pages(client.search_registered_models)]


def _versions(client: Any, name: str) -> list[Any]:
    quote = '"' if "'" in name else "'"
    found = _pages(lambda **page: client.search_model_versions(f"name = {quote}{name}{quote}", **page))
    return sorted(found, key=lambda version: -int(version.version))


def _pages(search: Callable[..., Any]) -> list[Any]:
    found: list[Any] = []
    token: str | None = None
    while True:
        page = search(max_results=PAGE, page_token=token)
        found += page
        token = page.token
        if not token:
            return found
