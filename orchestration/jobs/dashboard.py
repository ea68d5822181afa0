"""The door of a Ray cluster: its dashboard, its token, its version."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import requests

from ...datasets.problems import InputError

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

PATIENCE_S = (5.0, 20.0)  # to connect, to answer
_REFUSED = (401, 403)


def connect(address: str, *, insecure: bool = False) -> tuple[JobSubmissionClient, str]:
    """A client of the cluster's jobs, and the cluster's version of Ray.

    Raises InputError for a place that is no Ray dashboard, one that asks nobody for a token (unless `insecure`), and
    one whose token we have not. The token is sent to a cluster that asks for it and to no other.
    """
    url = _checked(address)
    answer = _version(url, {})
    headers: dict[str, str] = {}
    if answer.status_code in _REFUSED:
        headers = {"Authorization": f"Bearer {_token(url)}"}
        answer = _version(url, headers)
        if answer.status_code in _REFUSED:
            raise InputError(f"the cluster at {url} does not take this token: RAY_AUTH_TOKEN must be the cluster's own")
    elif not insecure and answer.ok and _ray_version(answer):
        raise InputError(
            f"the cluster at {url} asks nobody for a token: whoever reaches it runs code on it. Start it with "
            "RAY_AUTH_MODE=token, or say --insecure"
        )
    version = _ray_version(answer) if answer.ok else None
    if version is None:
        raise InputError(f"--cluster must be a Ray dashboard, got {url}, which answers with {answer.status_code}")
    return _client(url, headers), version


def _checked(address: str) -> str:
    parts = urlsplit(address)
    if parts.username is not None or parts.password is not None:
        raise InputError("--cluster must hold no user and no password: the token is RAY_AUTH_TOKEN")
    with contextlib.suppress(ValueError):  # of a port that is no number
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and not parts.query:
            return address.rstrip("/")
    raise InputError(f"--cluster must be the address of a Ray dashboard, http://HOST:8265, got {address!r}")


def _version(url: str, headers: dict[str, str]) -> requests.Response:
    try:
        return requests.get(f"{url}/api/version", headers=headers, timeout=PATIENCE_S, allow_redirects=False)
    except requests.exceptions.SSLError as error:
        raise InputError(f"no secure connection to {url}: {_innermost(error)}") from None
    except requests.RequestException as error:
        raise InputError(f"no cluster answers at {url}: {_innermost(error)}") from None


def _innermost(error: BaseException) -> str:
    """What the network said, without the layers around it."""
    while True:
        reason: Any = getattr(error, "reason", None) or (error.args[0] if error.args else None)
        if not isinstance(reason, BaseException):
            break
        error = reason
    return str(error).rpartition("object at 0x")[2].partition(">: ")[2] or str(error).rpartition(">: ")[2] or str(error)


def _ray_version(answer: requests.Response) -> str | None:
    try:
        return str(answer.json()["ray_version"])
    except (ValueError, KeyError, TypeError):
        return None


def _token(url: str) -> str:
    """As Ray looks for it: RAY_AUTH_TOKEN, the file RAY_AUTH_TOKEN_PATH, ~/.ray/auth_token."""
    given = os.environ.get("RAY_AUTH_TOKEN")
    if given:
        return given.strip()
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    path = Path(named).expanduser() if named else Path.home() / ".ray" / "auth_token"
    try:
        found = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        if named:
            raise InputError(f"RAY_AUTH_TOKEN_PATH must be a file that can be read, got {path}: {error}") from None
        found = ""
    if not found:
        raise InputError(
            f"the cluster at {url} asks for a token, and there is none here: set RAY_AUTH_TOKEN, or "
            "RAY_AUTH_TOKEN_PATH to a file that holds it, or write it to ~/.ray/auth_token"
        )
    return found


def _client(url: str, headers: dict[str, str]) -> JobSubmissionClient:
    from ray.job_submission import JobSubmissionClient

    for name in ("ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # either variable would be taken in place of the address; and once this process has started a Ray of its own, the
    # client would send that one's token to a cluster that asks for none
    with _unset("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"), _no_token_but_ours():
        return JobSubmissionClient(url, headers=headers)


@contextlib.contextmanager
def _no_token_but_ours() -> Iterator[None]:
    from ray.dashboard.modules import dashboard_sdk

    before = dashboard_sdk.get_auth_headers_if_auth_enabled
    dashboard_sdk.get_auth_headers_if_auth_enabled = lambda _: {}
    try:
        yield
    finally:
        dashboard_sdk.get_auth_headers_if_auth_enabled = before


@contextlib.contextmanager
def _unset(*names: str) -> Iterator[None]:
    before = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(before)
