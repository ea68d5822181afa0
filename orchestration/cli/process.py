"""How a command begins and ends as a process: its streams, its signals, its log, its exit code."""

from __future__ import annotations

import errno
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from typing import NoReturn

from ...datasets.problems import InputError
from ...datasets.storage.store import is_disk_full
from ..spec.errors import WorkFailedError
from .output import drop, safe, say, tell

_TYPER_INTERRUPTED = 130
# what is wrong with a place, not with us
_PLACE = {getattr(errno, n) for n in ("EACCES", "EPERM", "EROFS", "ENOTDIR", "EISDIR", "ENAMETOOLONG", "ELOOP")}


def exit_code(work: Callable[[], object]) -> int:
    """Does a command's work and prints what went wrong: 0 done, 1 the work failed, 2 bad input."""
    return run_to_exit(work)[0]


def run_to_exit(work: Callable[[], object]) -> tuple[int, str]:
    """As `exit_code`, with the message that was printed; it is empty where there was none.

    SIGTERM, which schedulers send, ends the work as Ctrl-C does.
    """
    _set_up()
    try:
        work()
        sys.stdout.flush()
    except SystemExit as error:  # how typer ends
        if error.code != _TYPER_INTERRUPTED:
            return (error.code if isinstance(error.code, int) else int(error.code is not None)), ""
        code, message = 1, "interrupted"
    except InputError as error:
        code, message = 2, str(error)
    except WorkFailedError as error:
        code, message = 1, str(error)
    except KeyboardInterrupt:
        code, message = 1, "interrupted"
    except Exception as error:  # noqa: BLE001  every other error ends here
        code, message = _unexpected(error)
    else:
        return 0, ""
    say(message)
    return code, message


def _unexpected(error: Exception) -> tuple[int, str]:
    if is_disk_full(error):
        return 2, f"no space left on the disk: {error}"
    if isinstance(error, OSError) and error.errno in _PLACE and error.filename is not None:
        return 2, f"{error.strerror}: {error.filename}"
    if isinstance(error, FileNotFoundError) and error.filename is None:  # of os.getcwd
        return 2, "the folder in which this command runs is gone"
    if _is_ledger_away(error):
        return 2, f"the ledger can't be used: {str(error).strip().splitlines()[0]}"
    tell(traceback.format_exc().rstrip())
    return 1, f"{type(error).__name__}: {error}"


def _is_ledger_away(error: Exception) -> bool:
    """Whether a database was locked or away for longer than commands wait. Loads nothing: who has not loaded Optuna
    has met no ledger."""
    optuna = sys.modules.get("optuna.exceptions")
    return optuna is not None and isinstance(error, optuna.StorageInternalError)


def end(code: int) -> NoReturn:
    """Ends this process at once: everything is closed by now, and taking torch, Ray and MLflow apart would take 1.5 s
    more."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            drop(stream)
    os._exit(code)


def _set_up() -> None:
    _open_streams()
    handler = logging.StreamHandler()
    handler.setFormatter(_SafeFormatter("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _interrupt)


def _open_streams() -> None:
    """Streams that the caller has closed (`>&-`) lead nowhere: a file that is opened later must not take their place,
    and be printed into."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            try:
                os.fstat(number)
            except OSError:
                os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w"))  # noqa: SIM115  for good
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)  # what a test puts there may have none
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")  # a terminal that knows ASCII only


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


class _SafeFormatter(logging.Formatter):
    """A line of the log, whatever stands in its message."""

    def format(self, record: logging.LogRecord) -> str:
        return safe(super().format(record), lines=True)
