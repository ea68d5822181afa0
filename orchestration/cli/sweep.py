"""`refsweep sweep`: run, watch, resume and stop sweeps."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...datasets.problems import InputError
from . import jobs as cli_jobs
from .jobs import Cluster, Insecure
from .output import Json, Name, Sets, Storage, WorkFailedError, ledger_url, open_ledger, say, show, table

if TYPE_CHECKING:
    from ..ledger.ledger import Ledger
    from ..sweep import Outcome

app = typer.Typer(no_args_is_help=True, help="Run, watch, resume and stop sweeps.")
app.command("submit")(cli_jobs.submit)
app.command("logs")(cli_jobs.logs)

Plain = Annotated[bool, typer.Option("--plain", help="Lines instead of the live table.")]
LedgerUrl = Annotated[str | None, typer.Option("--ledger", help="Default: <storage>/ledger.db.")]


@contextlib.contextmanager
def _heard_at_once() -> Iterator[None]:
    """Says what is wrong with the input before what has started in the background is ended."""
    try:
        yield
    except InputError as error:
        say(str(error))
        raise typer.Exit(2) from error


@app.command("run")
def sweep_run(spec: str, sets: Sets = None, plain: Plain = False, as_json: Json = False) -> None:
    """Run a sweep; go on with it if it has begun."""
    from ..execution.ray_start import ray_in_background
    from ..spec.schema import make_spec, read_spec

    content = read_spec(spec, sets or ())
    with ray_in_background() as connected, _heard_at_once():
        from .. import sweep

        outcome = sweep.run(make_spec(content, spec), connected, plain=plain or None)
    report(outcome, as_json)


@app.command("resume")
def sweep_resume(
    name: Name,
    trials: Annotated[int | None, typer.Option(help="Extend to so many trials.")] = None,
    retry_failed: Annotated[bool, typer.Option(help="Try failed trials again, from their checkpoints.")] = False,
    sets: Sets = None,
    plain: Plain = False,
    storage: Storage = "./refsweep-out",
    ledger: LedgerUrl = None,
    as_json: Json = False,
) -> None:
    """Go on with a sweep after anything: a crash, a stop, a changed mind about the number of trials."""
    from ..execution.ray_start import ray_in_background

    record = open_ledger(name, storage, ledger)
    record.refuse_if_driven()
    more = [f"search.trials={trials}"] if trials is not None else []
    with ray_in_background() as connected, _heard_at_once():
        from .. import sweep

        spec = sweep.stored_spec(record, [*(sets or ()), *more])
        record.close()
        outcome = sweep.run(spec, connected, plain=plain or None, retry_failed=retry_failed, resuming=True)
    report(outcome, as_json)


@app.command("status")
def sweep_status(
    name: Name,
    storage: Storage = "./refsweep-out",
    ledger: LedgerUrl = None,
    cluster: Cluster = None,
    insecure: Insecure = False,
    as_json: Json = False,
) -> None:
    """Say how a sweep stands, what its time was for, and how long the rest will take.

    The time of all slots while the sweep was driven is split into accounts:

    - useful: epochs of completed trials

    - start-up: starting workers, importing, opening data, building the model, saving, reporting

    - repeated: training that a crash lost, and that was done again

    - pruned: epochs of trials that a pruner ended

    - failed: training of failed and of infeasible trials

    - unfinished: all of trials that have not ended

    - waiting: slots without a trial
    """
    if cluster is not None:
        cli_jobs.status(name, cluster, insecure, as_json)
        return
    from ..ledger.status import status
    from .budget_lines import budget_lines
    from .live_view import summary

    record = open_ledger(name, storage, ledger)
    found = status(record)
    shown = summary(record, record.attributes["spec"], found["state"])
    show(found, as_json, shown, *budget_lines(found["budget"]), *_halt_lines(record))


@app.command("list")
def sweep_list(
    storage: Storage = "./refsweep-out",
    ledger: LedgerUrl = None,
    cluster: Cluster = None,
    insecure: Insecure = False,
    as_json: Json = False,
) -> None:
    """List the sweeps of a ledger, or the jobs of a cluster."""
    if cluster is not None:
        cli_jobs.list_jobs(cluster, insecure, as_json)
        return
    from ..ledger.status import list_sweeps

    found = list_sweeps(ledger_url(storage, ledger))
    show({"sweeps": found}, as_json, table("sweeps", found))


@app.command("stop")
def sweep_stop(
    name: Name,
    storage: Storage = "./refsweep-out",
    ledger: LedgerUrl = None,
    cluster: Cluster = None,
    insecure: Insecure = False,
    as_json: Json = False,
) -> None:
    """Ask a running sweep to write checkpoints and stop."""
    if cluster is not None:
        cli_jobs.stop(name, cluster, insecure, as_json)
        return
    from .. import sweep

    state = sweep.stop(open_ledger(name, storage, ledger))
    show({"name": name, "state": state}, as_json, f"sweep {name}: {state}")
    if state == "running":
        raise WorkFailedError(f"sweep {name} has not stopped yet")


@app.command("sync")
def sweep_sync(
    name: Name, storage: Storage = "./refsweep-out", ledger: LedgerUrl = None, as_json: Json = False
) -> None:
    """Send MLflow all that it lacks of a sweep; nothing twice."""
    from .. import sweep

    record = open_ledger(name, storage, ledger)
    try:
        counts = sweep.sync(record)
    except InputError:
        raise
    except Exception as error:
        raise WorkFailedError(f"MLflow could not be brought up to date: {error}") from error
    finally:
        record.close()
    show(
        {"name": name, **counts},
        as_json,
        f"sweep {name}: {counts['trials']} trials in MLflow, {counts['deleted']} stray runs deleted",
    )


def _halt_lines(record: Ledger) -> list[str]:
    if record.attributes.get("spent"):
        return [f"[yellow]stopped:[/yellow] {record.attributes['spent']}"]
    if not record.attributes.get("halted"):
        return []
    failure = record.attributes.get("halted_with") or {}
    return [f"[red]halted:[/red] {record.attributes['halted']}", str(failure.get("traceback", ""))]


def report(outcome: Outcome, as_json: bool) -> None:
    """Shows how a driver's run ended. Raises WorkFailedError or InputError when that is no success."""
    from ..ledger.status import status
    from .budget_lines import budget_lines
    from .live_view import summary

    record = outcome.ledger
    found = status(record)
    spec = record.attributes["spec"]
    lines: list[Any] = [summary(record, spec, outcome.state), *budget_lines(found["budget"])]
    if outcome.behind:
        lines.append(f"MLflow is behind ({outcome.behind}): `refsweep sweep sync {record.sweep}` sends the rest")
    show({**found, "state": outcome.state}, as_json, *lines, *_halt_lines(record))
    record.close()
    if outcome.state == "halted":
        message = f"sweep {record.sweep} halted: {outcome.cause}"
        raise InputError(message) if outcome.bad_input else WorkFailedError(message)
    if outcome.state == "stopped":
        if outcome.cause:
            larger = f"`refsweep sweep resume {record.sweep} --set budget.NAME=MORE` goes on"
            raise WorkFailedError(f"sweep {record.sweep} stopped: {outcome.cause}; {larger}")
        raise WorkFailedError(f"sweep {record.sweep} stopped: `refsweep sweep resume {record.sweep}` goes on")
    if found["best"] is None:
        raise WorkFailedError(f"no trial of sweep {record.sweep} was completed")
