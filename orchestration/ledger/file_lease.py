"""The lease of a sweep in a SQLite file: `flock` on a file beside it, which the kernel frees with its process."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

from ...datasets.problems import InputError
from ..spec.errors import LeaseTakenError

TAKE_TIMEOUT_S = 1.0  # a look at the lock of a file is over in microseconds; a driver's stays
_TRY = "import fcntl, sys; fcntl.flock(open(sys.argv[1], 'a'), fcntl.LOCK_EX | fcntl.LOCK_NB)"


class FileLease:
    """`flock` on a file beside the SQLite file."""

    def __init__(self, path: Path) -> None:
        """Raises LeaseTakenError when another process has it, InputError where files can't be locked."""
        self._path = path
        self._file = _opened(path)
        until = time.monotonic() + TAKE_TIMEOUT_S
        try:
            while True:
                if not self._is_there():  # deleted, perhaps by hand: a lock on it would keep nobody out
                    self._file.close()
                    self._file = _opened(path)
                elif _locked(self._file, fcntl.LOCK_EX):
                    if self._is_there():
                        break
                elif time.monotonic() > until:
                    raise LeaseTakenError("")
                else:
                    time.sleep(0.002)
            _refuse_without_locks(path)
        except InputError:
            self._file.close()
            raise

    def release(self) -> None:
        """Gives it back."""
        self._file.close()

    def held(self) -> bool:
        """Whether it still is: the file that is locked is the one that others would find."""
        return not self._file.closed and self._is_there()

    def lost(self) -> bool:
        """Whether it is known to be lost."""
        return not self.held()

    def _is_there(self) -> bool:
        try:
            found = os.stat(self._path)
        except OSError:
            return False
        return os.path.samestat(found, os.fstat(self._file.fileno()))

    @staticmethod
    def taken(path: Path) -> bool:
        """Whether some process holds it. Who may not look takes the record's word that there is a driver."""
        try:
            with open(path) as file:
                return not _locked(file, fcntl.LOCK_SH)  # those who look share it
        except FileNotFoundError:
            return False
        except PermissionError:
            return True


def _opened(path: Path) -> IO[str]:
    try:
        return open(path, "a")
    except OSError as error:
        raise InputError(f"{path}, which says who runs the sweep, can't be written: {error.strerror}") from error


def _locked(file: IO[str], kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            raise _no_locks(Path(file.name), error.strerror or "") from error
        return False
    return True


def _refuse_without_locks(path: Path) -> None:
    """Locks a locked file again, which must fail. Where this process may, locks being its own, another one tries."""
    with open(path, "a") as again:
        if not _locked(again, fcntl.LOCK_EX):
            return
    tried = subprocess.run([sys.executable, "-I", "-S", "-c", _TRY, path], stderr=subprocess.DEVNULL, check=False)
    if tried.returncode == 0:
        raise _no_locks(path, "two processes could lock one file")


def _no_locks(path: Path, why: str) -> InputError:
    return InputError(
        f"the file system of {path.parent} has no file locks ({why}), so that two drivers could run one sweep: "
        "keep the ledger on a local disk, or in PostgreSQL (`ledger: postgresql://HOST/DB`)"
    )
