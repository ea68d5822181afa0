"""What the environment says of Ray, checked before anything starts: which cluster, where its files go, its token."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import socket
import stat
from pathlib import Path

from ...datasets.problems import InputError

ANSWER_S = 5.0  # for a cluster's head to answer
# a socket's path has at most 107 bytes, and Ray's begin with session_2026-01-31_23-59-59_999999_4194304/sockets/
TEMP_MAX = 107 - len("/refsweep-ray-xxxxxxxx/r/session_2026-01-31_23-59-59_999999_4194304/sockets/plasma_store.1")
_FORM = "local, auto or HOST:PORT"
_HTTP2_BEGINS = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])  # and an empty SETTINGS frame
_SETTINGS = 4  # the type of the frame with which a server answers


def ray_address() -> str:
    """RAY_ADDRESS: `local` where it is missing or empty. Raises InputError for one that can't be joined, within
    seconds."""
    address = os.environ.get("RAY_ADDRESS", "").strip() or "local"
    if address in ("local", "auto"):
        return address
    if address.startswith("ray://"):
        raise InputError(
            f"RAY_ADDRESS must be {_FORM}, got ray://: a sweep's driver runs inside the cluster; "
            "`refsweep sweep submit SPEC --cluster http://HEAD:8265` sends it there"
        )
    if "://" in address:
        raise InputError(
            f"RAY_ADDRESS must be {_FORM}, got {address.partition('://')[0]}://: a dashboard is named by "
            "`refsweep sweep submit SPEC --cluster URL`"
        )
    match = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^:\s]+):(\d{1,5})", address)
    if match is None or not 0 < int(match[2]) < 65536:
        raise InputError(f"RAY_ADDRESS must be {_FORM}, got {address!r}")
    _must_answer(match[1].strip("[]"), int(match[2]), address)
    return address


def _must_answer(host: str, port: int, address: str) -> None:
    """Raises InputError unless a gRPC server is there, which Ray's head is."""
    advice = "start the cluster, or unset RAY_ADDRESS to use this machine"
    try:
        with socket.create_connection((host, port), timeout=ANSWER_S) as connection:
            if os.environ.get("RAY_USE_TLS", "0") not in ("", "0"):
                return
            connection.sendall(_HTTP2_BEGINS)
            answer = connection.recv(9)
    except TimeoutError:
        answer = b""
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise InputError(f"no Ray at RAY_ADDRESS={address}: {why}; {advice}") from None
    if len(answer) < 4 or answer[3] != _SETTINGS:
        raise InputError(f"no Ray at RAY_ADDRESS={address}: what listens there does not answer as Ray does; {advice}")


def ray_temp() -> str:
    """Where Ray's files of this machine go: RAY_TMPDIR, else TMPDIR, else /tmp. Raises InputError for a folder that
    can't hold them."""
    given = os.environ.get("RAY_TMPDIR")
    if not given:
        usual = os.environ.get("TMPDIR", "")
        return usual if _holds_sockets(usual) else "/tmp"  # noqa: S108  a folder of ours is made in it
    if not _holds_sockets(given):
        raise InputError(
            f"RAY_TMPDIR must be a folder that can be written, with a path of at most {TEMP_MAX} bytes, got {given!r}"
        )
    return given


def _holds_sockets(folder: str) -> bool:
    return os.path.isabs(folder) and len(os.fsencode(folder)) <= TEMP_MAX and os.access(folder, os.W_OK | os.X_OK)


def make_token() -> None:
    """Makes the token of a Ray on this machine where there is none, for this user alone: Ray itself would let everyone
    read it. Without a home that can be written, it is in the environment of this process and of those it starts."""
    named = [name for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH") if os.environ.get(name)]
    if named or os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        return
    token = secrets.token_hex(32)
    try:
        _write_token(Path.home() / ".ray" / "auth_token", token)
    except (OSError, RuntimeError):
        os.environ["RAY_AUTH_TOKEN"] = token


def _write_token(path: Path, token: str) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        made = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        with open(made, "w") as file:
            file.write(token)
    found = path.lstat()
    if stat.S_ISREG(found.st_mode) and found.st_uid == os.getuid() and found.st_mode & 0o077:
        path.chmod(0o600)  # an earlier Ray's
