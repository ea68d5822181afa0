"""Connects to the dashboard of a Ray cluster: its address, its token, its version."""

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

CONNECT_TIMEOUT_S, ANSWER_TIMEOUT_S = 5.0, 20.0
_UNAUTHORISED = (401, 403)


def connect(address: str, *, insecure: bool = False) -> tuple[JobSubmissionClient, str]:
    """A client of the cluster's jobs, and the cluster's version of Ray.

    The token is sent only to a cluster that asks for it.

    Raises:
        InputError: `address` is not a Ray dashboard; the cluster does not use token authentication and `insecure` is
            not set; the token is missing or wrong.
    """
    url = _checked(address)
    answer = _version(url, {})
    headers: dict[str, str] = {}
    if answer.status_code in _UNAUTHORISED:
        headers = {"Authorization": f"Bearer {_token(url)}"}
        answer = _version(url, headers)
        if answer.status_code in _UNAUTHORISED:
            raise InputError(f"the cluster at {url} rejects this token: RAY_AUTH_TOKEN must be that cluster's token")
    elif not insecure and answer.ok and _ray_version(answer):
        raise InputError(
            f"the cluster at {url} has no token authentication, so anyone who can reach it can run code on it. "
            "Start it with RAY_AUTH_MODE=token, or pass --insecure"
        )
    version = _ray_version(answer) if answer.ok else None
    if version is None:
        raise InputError(
            f"--cluster must be a Ray dashboard, got {url}, which answers with status {answer.status_code}"
        )
    return _client(url, headers), version


def _checked(address: str) -> str:
    if "@" in address:
        raise InputError("--cluster must not contain a user or a password: set RAY_AUTH_TOKEN instead")
    with contextlib.suppress(ValueError):  # the port is not a number, or a bracket is open
        parts = urlsplit(address)
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and not parts.query:
            return address.rstrip("/")
    raise InputError(f"--cluster must be the address of a Ray dashboard, http://HOST:8265, got {address!r}")


def _version(url: str, headers: dict[str, str]) -> requests.Response:
    try:
        return requests.get(
            f"{url}/api/version", headers=headers, timeout=(CONNECT_TIMEOUT_S, ANSWER_TIMEOUT_S), allow_redirects=False
        )
    except requests.exceptions.SSLError as error:
        raise InputError(f"no secure connection to {url}: {_innermost(error)}") from None
    except requests.RequestException as error:
        raise InputError(f"no cluster answers at {url}: {_innermost(error)}") from None


def _innermost(error: BaseException) -> str:
    """The message of the network's own error, without those of the libraries around it."""
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
    """The token, from where Ray takes it: RAY_AUTH_TOKEN, the file RAY_AUTH_TOKEN_PATH, ~/.ray/auth_token."""
    token = os.environ.get("RAY_AUTH_TOKEN", "").strip()
    if token:
        return token
    given_path = os.environ.get("RAY_AUTH_TOKEN_PATH")
    path = Path(given_path).expanduser() if given_path else Path.home() / ".ray" / "auth_token"
    try:
        token = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        if given_path:
            raise InputError(f"RAY_AUTH_TOKEN_PATH must be a readable file, got {path}: {error}") from None
    if not token:
        raise InputError(
            f"the cluster at {url} requires a token: set RAY_AUTH_TOKEN, set RAY_AUTH_TOKEN_PATH to a file that "
            "contains it, or write it to ~/.ray/auth_token"
        )
    return token


def _client(url: str, headers: dict[str, str]) -> JobSubmissionClient:
    from ray.job_submission import JobSubmissionClient  # here, since Ray takes two seconds to import

    for name in ("ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # Either variable would replace the address. And once this process has started a Ray of its own, the client would
    # send the token of that one to a cluster that asks for none.
    with _unset("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"), _no_token_of_ray():
        return JobSubmissionClient(url, headers=headers)


@contextlib.contextmanager
def _no_token_of_ray() -> Iterator[None]:
    """Keeps Ray's client from adding a token of its own to the headers."""
    from ray.dashboard.modules import dashboard_sdk  # here, as in `_client`

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
