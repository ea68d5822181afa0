"""What is wrong with the places that a person names for a new sweep or a command, found before anything is written."""

from __future__ import annotations

import os
import re
import stat

from ...datasets.problems import InputError
from .credentials import redacted
from .locations import check_tracking, check_url, folder_path, sqlite_path
from .schema import SweepSpec

TRACKING_VARIABLE = "MLFLOW_TRACKING_URI"
# what a storage folder holds beside the folders of sweeps
_RESERVED = re.compile(r"(ledger|mlflow)\.db([.-].*)?|made|mlartifacts")
# of MLflow's client, those that it can't do without
_NUMBERS = ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT", "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR")
_VARIABLE = re.compile(r"\$(\w+|\{\w+\})")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/")


def place_problems(spec: SweepSpec) -> list[str]:
    """What is wrong with a new sweep's name and with where it keeps things, each `path: problem`."""
    problems = environment_problems()
    if _RESERVED.fullmatch(spec.name):
        problems.append(f"name: must not be ledger.db, mlflow.db, made or mlartifacts, got {spec.name!r}")
    places = {"storage": spec.storage}
    if spec.data != "none" and not spec.data.startswith("made:"):
        places["data"] = spec.data
    for field, place in places.items():
        problem = folder_problem(place)
        if problem is not None:
            problems.append(f"{field}: {problem}")
    for field, url in (("ledger", spec.ledger), ("tracking", spec.tracking)):
        problems += [f"{field}: {line}" for line in _url_problems(field, url)]
    if not problems and not spec.storage.startswith("s3://"):
        # the files that stand in for a ledger or an MLflow that is not given
        missing = [field for field in ("ledger", "tracking") if getattr(spec, field) is None]
        defaults = {"ledger": spec.ledger_url, "tracking": spec.tracking_uri or "none"}
        found = {line for field in missing for line in _url_problems(field, defaults[field], given=False)}
        problems += [f"storage: {line}; or give {' and '.join(missing)}" for line in sorted(found)]
    return problems


def folder_problem(place: str) -> str | None:
    """What is wrong with a folder or `s3://bucket/prefix`; None when nothing is. It need not be there yet."""
    if not place.strip():
        return "must name a folder or s3://bucket/prefix, got an empty text"
    variable = _VARIABLE.search(place)
    if variable is not None:
        return f"must be written out: variables are not replaced, got {variable[0]}"
    if place.startswith("s3://"):
        bucket = place.removeprefix("s3://").partition("/")[0]
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", bucket):
            return "must be s3://bucket/prefix with no key, user or port in it"
        return None
    if _URL.match(place):
        return f"must be a folder or s3://bucket/prefix, got {redacted(place)!r}"
    try:
        path = folder_path(place)
        os.fsencode(path).decode()
    except InputError as error:
        return f"must be a folder: {error}"
    except UnicodeError:
        return f"must be a name in UTF-8, got {place!r}"
    return _file_problem(path, folder=True)


def _url_problems(field: str, url: str | None, *, given: bool = True) -> list[str]:
    if url is None:
        return []
    try:
        (check_url if field == "ledger" else check_tracking)(url)
        path = sqlite_path(url)
        if path is not None:
            os.fsencode(path).decode()
    except InputError as error:  # of a ledger's URL the types of the spec say it
        return [] if field == "ledger" and given else [str(error).removeprefix(f"{field} ")]
    except UnicodeError:
        return ["must be a name in UTF-8"]
    variable = _VARIABLE.search(url) if given else None
    if variable is not None:
        return [f"must be written out: variables are not replaced, got {variable[0]}"]
    problem = _file_problem(path, folder=False) if path is not None else None
    return [problem] if problem is not None else []


def _file_problem(path: os.PathLike[str], *, folder: bool) -> str | None:
    """Why there can be no folder, or no file, at a path."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        return f"can't be used: {getattr(error, 'strerror', None) or error}: {str(path)[:200]!r}"
    if folder and not stat.S_ISDIR(mode):
        return f"must be a folder, got the file {str(path)!r}"
    if not folder and stat.S_ISDIR(mode):
        return f"must be a file, got the folder {str(path)!r}"
    return None


def environment_problems() -> list[str]:
    """Variables that MLflow's client could not read, each `NAME: problem`."""
    return [
        f"{name}: must be a whole number, got {os.environ[name]!r}"
        for name in _NUMBERS
        if name in os.environ and not re.fullmatch(r"\s*\d+\s*", os.environ[name])
    ]


def tracking_by_rule(*given: str | None) -> str | None:
    """Where MLflow is: the first of `given` that is not None (the sweep's record, `--tracking`, the spec, in this
    order), else MLFLOW_TRACKING_URI, else None, which is `sqlite:///<storage>/mlflow.db`.

    Raises InputError for variables that can't be used.
    """
    problems = environment_problems()
    if problems:
        raise InputError("\n".join(problems))
    for place in given:
        if place is not None:
            return place
    variable = os.environ.get(TRACKING_VARIABLE, "").strip()
    if not variable:
        return None
    return check_tracking(variable, TRACKING_VARIABLE)
