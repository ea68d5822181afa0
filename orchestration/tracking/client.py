"""MLflow's client, and the experiments that runs belong to."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Any

from ...datasets.problems import InputError
from ..spec.locations import sqlite_path
from .tables import copy_tables

log = logging.getLogger(__name__)


def make_client(uri: str) -> Any:
    """A client of the MLflow at `uri`: quiet, and, unless the user's settings say otherwise, quick to fail.

    Makes the tables of a new SQLite file. Raises what MLflow raises when the server can't be reached.
    """
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # a process would wait for it to be sent
    import mlflow  # here, since it takes two seconds, and reads the variables above

    for library in ("alembic", "mlflow"):  # they report that tables are made
        logging.getLogger(library).setLevel(logging.ERROR)

    def connect(uri: str) -> Any:
        client = mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)
        client.search_experiments(max_results=1)  # makes tables, and fails when the server is away
        return client

    path = sqlite_path(uri)
    if path is not None:
        copy_tables(path, mlflow.__version__, connect)
    return connect(uri)


def experiment_id(
    client: Any, uri: str, name: str, send: Callable[..., Any] = lambda request, *arguments: request(*arguments)
) -> str:
    """The id of the experiment `name`, which is made if it is new and restored if somebody has deleted it: MLflow keeps
    its name. `send` makes requests that write.

    With a SQLite file for `uri`, artifacts are stored beside the file. Raises InputError for an experiment that can't
    be restored.
    """
    experiment = client.get_experiment_by_name(name)
    if experiment is not None:
        number = str(experiment.experiment_id)
        if experiment.lifecycle_stage == "deleted":
            _restore(client, name, number, send)
        return number
    path = sqlite_path(uri)
    artifacts = (path.parent / "mlartifacts" / name).as_uri() if path else None
    return str(send(client.create_experiment, name, artifacts))


def _restore(client: Any, name: str, number: str, send: Callable[..., Any]) -> None:
    from mlflow.exceptions import MlflowException  # here, as in `make_client`

    try:
        send(client.restore_experiment, number)
    except MlflowException as error:
        raise InputError(
            f"MLflow's experiment {name!r} (id {number}) is deleted and can't be restored: {error}. Restore it, or "
            "let `mlflow gc` remove it for good"
        ) from error
    log.warning("MLflow's experiment %r was deleted; it is restored, since its name can't be used again", name)
