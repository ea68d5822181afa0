"""`refsweep sweep`: run, watch, resume and stop sweeps."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...datasets.problems import InputError
from ..spec.errors import WorkFailedError
from . import jobs
from .adopt import adopt
from .jobs import Cluster, Insecure
from .output import Json, Name, Sets, Storage, SweepTracking, ledger_url, say, show, table, tell
from .places import absolute, find, given
from .verify import verify

if TYPE_CHECKING:
    from ..ledger.ledger import Ledger
    from ..sweep import Outcome, Sweep

app = typer.Typer(no_args_is_help=True, help="Run, watch, resume and stop sweeps.")
app.command("submit")(jobs.submit)
app.command("logs")(jobs.logs)
app.command("adopt")(adopt)
app.command("verify")(verify)

Plain = Annotated[bool, typer.Option("--plain", help="Print lines instead of a live table.")]
LedgerUrl = Annotated[str | None, typer.Option("--ledger", help="Default: <storage>/ledger.db.")]


@contextlib.contextmanager
def _problems_first() -> Iterator[None]:
    """Prints what is wrong with the input before what has started in the background is ended, which takes seconds."""
    try:
        yield
    except InputError as error:
        say(str(error))
        raise typer.Exit(2) from error


@app.command("run")
def sweep_run(
    spec: str, sets: Sets = None, tracking: SweepTracking = None, plain: Plain = False, as_json: Json = False
) -> None:
    """Run a sweep. A sweep that has begun is continued."""
    from ..execution.ray_start import ray_in_background
    from ..spec.read import read_spec

    content = read_spec(spec, sets or ())
    if tracking is not None:
        content["tracking"] = tracking
    with ray_in_background(content.get("trainable")) as connected, _problems_first():
        from ..execution.tune import TuneBackend
        from ..sweep import check_spec, open_sweep
        from .live_view import progress_view

        sweep = open_sweep(check_spec(content, spec))
        with closing_on_error(sweep), progress_view(plain=plain or None) as view:
            outcome = sweep.run(TuneBackend(connected, tell), observers=[view])
    report(sweep, outcome, as_json)


@app.command("resume")
def sweep_resume(
    context: typer.Context,
    name: Name,
    trials: Annotated[int | None, typer.Option(help="Extend the sweep to this many trials.")] = None,
    retry_failed: Annotated[bool, typer.Option(help="Try failed trials again, from their checkpoints.")] = False,
    sets: Sets = None,
    plain: Plain = False,
    storage: Storage = "./refsweep-out",
    ledger: LedgerUrl = None,
    tracking: SweepTracking = None,
    as_json: Json = False,
) -> None:
    """Continue a sweep after a crash or a stop, or with more trials."""
    from ..execution.ray_start import ray_in_background

    sweep = find(context, name, storage, ledger, tracking)
    sweep.ledger.refuse_if_driven()
    more = [f"search.trials={trials}"] if trials is not None else []
    with ray_in_background(sweep.spec.trainable) as connected, _problems_first():
        from ..execution.tune import TuneBackend
        from .live_view import progress_view

        with closing_on_error(sweep), progress_view(plain=plain or None) as view:
            sweep.change([*(sets or ()), *more])
            backend = TuneBackend(connected, tell)
            outcome = sweep.run(backend, observers=[view], retry_failed=retry_failed, resuming=True)
    report(sweep, outcome, as_json)


@contextlib.contextmanager
def closing_on_error(sweep: Sweep) -> Iterator[None]:
    """Gives a sweep's lease back when the body fails."""
    try:
        yield
    except BaseException:
        sweep.close()
        raise


@app.command("status")
def sweep_status(
    context: typer.Context,
    name: Name,
    storage: Storage = "./refsweep-out",
    ledger: LedgerUrl = None,
    cluster: Cluster = None,
    insecure: Insecure = False,
    as_json: Json = False,
) -> None:
    """Show a sweep's trials, what its time was for, and how long the rest will take.

    The time of all slots while a driver ran is split into accounts:

    - useful: epochs of completed trials

    - start-up: starting workers, importing, opening data, building the model, saving, reporting

    - repeated: training that a crash lost and that was done again

    - pruned: epochs of trials that a pruner ended

    - failed: training of failed and of infeasible trials

    - unfinished: all of trials that have not ended

    - waiting: slots without a trial
    """
    if cluster is not None:
        jobs.status(name, cluster, insecure, as_json)
        return
    from .budget_lines import budget_lines
    from .summary import summary

    with find(context, name, storage, ledger, readonly=True) as sweep:
        content = sweep.status()
        shown = summary(sweep.ledger, content["state"])
        show(content, as_json, shown, *budget_lines(content["budget"]), *_why_it_ended(sweep.ledger))


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
        jobs.list_jobs(cluster, insecure, as_json)
        return
    from ..ledger.status import list_sweeps

    rows = list_sweeps(ledger_url(storage, ledger))
    show({"sweeps": rows}, as_json, table("sweeps", rows))


@app.command("stop")
def sweep_stop(
    context: typer.Context,
    name: Name,
    storage: Storage = "./refsweep-out",
    ledger: LedgerUrl = None,
    cluster: Cluster = None,
    insecure: Insecure = False,
    as_json: Json = False,
) -> None:
    """Ask a running sweep to write checkpoints and stop."""
    if cluster is not None:
        jobs.stop(name, cluster, insecure, as_json, absolute(storage) if given(context, "storage") else None, ledger)
        return
    with find(context, name, storage, ledger) as sweep:
        state = sweep.stop()
    show({"name": name, "state": str(state)}, as_json, f"sweep {name}: {state}")
    if not state.is_final:
        raise WorkFailedError(f"sweep {name} has not stopped yet")


@app.command("sync")
def sweep_sync(
    context: typer.Context,
    name: Name,
    storage: Storage = "./refsweep-out",
    ledger: LedgerUrl = None,
    tracking: SweepTracking = None,
    as_json: Json = False,
) -> None:
    """Upload anything MLflow missed. Safe to repeat."""
    with find(context, name, storage, ledger, tracking) as sweep:
        try:
            counts = sweep.sync()
        except InputError:
            raise
        except Exception as error:
            raise WorkFailedError(f"MLflow could not be brought up to date: {error}") from error
    show(
        {"name": name, **counts},
        as_json,
        f"sweep {name}: {counts['trials']} trials in MLflow, {counts['deleted']} stray runs deleted",
    )


def _why_it_ended(ledger: Ledger) -> list[str]:
    record = ledger.record
    if record.spent:
        return [f"stopped: {record.spent}"]
    if not record.halted:
        return []
    return [f"halted: {record.halted}", record.halted_with.traceback if record.halted_with else ""]


def report(sweep: Sweep, outcome: Outcome, as_json: bool) -> None:
    """Shows how a driver's run ended, and closes the sweep. Raises WorkFailedError or InputError when that is no
    success."""
    from ..ledger.records import SweepState
    from .budget_lines import budget_lines
    from .summary import summary

    name = sweep.spec.name
    with sweep:
        content = {**sweep.status(), "state": str(outcome.state)}
        parts: list[Any] = [summary(sweep.ledger, outcome.state), *budget_lines(content["budget"])]
        if outcome.mlflow_behind:
            parts.append(f"MLflow is behind ({outcome.mlflow_behind}): `refsweep sweep sync {name}` uploads the rest")
        show(content, as_json, *parts, *_why_it_ended(sweep.ledger))
    if outcome.state is SweepState.HALTED:
        message = f"sweep {name} halted: {outcome.cause}"
        raise InputError(message) if outcome.bad_input else WorkFailedError(message)
    if outcome.state is SweepState.STOPPED:
        if outcome.cause:
            larger = f"`refsweep sweep resume {name} --set budget.NAME=MORE` continues it"
            raise WorkFailedError(f"sweep {name} stopped: {outcome.cause}; {larger}")
        raise WorkFailedError(f"sweep {name} stopped: `refsweep sweep resume {name}` continues it")
    if content["best"] is None:
        raise WorkFailedError(f"no trial of sweep {name} was completed")
