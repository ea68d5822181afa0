"""Runs a command, and ends everything that it started when it ends, or when the starting process does.

    python guard.py [--user NAME] [--finally SCRIPT] -- COMMAND ...

Ray's workers change process groups, jobs change sessions, and children of a killed parent go to init: no group, no
session and no tree of parents contains them all. A child subreaper does: whatever the command leaves behind becomes a
child of this process (prctl(2), Linux). Its standard input is a pipe from the starting process, which is closed even
when that process is killed. This file imports nothing of the package, so that it starts in 30 ms.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import pwd
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

PR_SET_CHILD_SUBREAPER = 36


def descendants(pid: int, *, zombies: bool = False) -> list[int]:
    """Ids of every living process that descends from this one, parents first; zombies only if asked for.

    A zombie may still hold files and ports: its first thread has ended, others are about to.
    """
    children: dict[int, list[int]] = {}
    dead = set()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        children.setdefault(int(fields[1]), []).append(int(entry.name))
        if fields[0] in "ZX" and not zombies:
            dead.add(int(entry.name))
    below = list(children.get(pid, ()))
    for child in below:
        below.extend(children.get(child, ()))
    return [child for child in below if child not in dead]


def reap() -> dict[int, int]:
    """Exit codes by process id, of every child that has ended."""
    codes = {}
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            codes[pid] = os.waitstatus_to_exitcode(status)
    return codes


def end_all() -> None:
    """Kills every descendant until none is left, including those that are started meanwhile."""
    while True:
        for pid in descendants(os.getpid()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        reap()
        if not descendants(os.getpid(), zombies=True):
            return
        time.sleep(0.01)


def identity(user: str | None) -> dict[str, Any]:
    """Arguments of Popen that run a process as another user, with that user's group."""
    if user is None:
        return {}
    return {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []}


def main() -> int:
    """Returns the command's exit code, or 1 if this process ended it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--user")
    parser.add_argument("--finally", dest="last", default="")
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    wake, woken = os.pipe()
    os.set_blocking(woken, False)
    signal.set_wakeup_fd(woken)
    asked = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: asked.append(True))  # a handler, since ignoring would be inherited
    signal.signal(signal.SIGCHLD, lambda *_: None)
    code = None
    try:
        child = subprocess.Popen(options.command, stdin=subprocess.DEVNULL, **identity(options.user))
        while code is None and not asked:
            ready, _, _ = select.select([sys.stdin, wake], [], [])
            if sys.stdin in ready:
                break
            os.read(wake, 512)
            code = reap().get(child.pid)
    finally:
        end_all()
        if options.last:
            subprocess.run(["/bin/sh", "-c", options.last], stdin=subprocess.DEVNULL, check=False)
    return 1 if code is None else code


if __name__ == "__main__":
    sys.exit(main())
