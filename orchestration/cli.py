"""The command line: parses, calls, prints. Exit code 0 done, 1 the work failed, 2 bad input.

With --json a command prints one JSON object on stdout and nothing else. Modules are imported where a command
needs them: `refsweep --help` loads neither Ray nor torch.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.table import Table

from ..datasets.problems import InputError
from ..datasets.store import Store, is_disk_full

if TYPE_CHECKING:
    from .ledger import Ledger
    from .sweep import Outcome

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help=__doc__.splitlines()[0], pretty_exceptions_enable=False
)
data_app = typer.Typer(no_args_is_help=True, help="Make, check and label data sets.")
sweep_app = typer.Typer(no_args_is_help=True, help="Run, watch, resume and stop sweeps.")
app.add_typer(data_app, name="data")
app.add_typer(sweep_app, name="sweep")

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Plain = Annotated[bool, typer.Option("--plain", help="Lines instead of the live table.")]
Sets = Annotated[list[str] | None, typer.Option("--set", help="FIELD=VALUE: override a field of the spec; repeatable.")]
Storage = Annotated[str, typer.Option(help="Folder or s3:// that holds sweeps.")]
LedgerUrl = Annotated[str | None, typer.Option("--ledger", help="Default: <storage>/ledger.db.")]
Name = Annotated[str, typer.Argument(help="Name of the sweep.")]

out = Console()
err = Console(stderr=True)


class WorkFailedError(Exception):
    """The command did what it could, and that was not enough: exit code 1."""


def main() -> NoReturn:
    """Entry point of `refsweep`."""
    code = run_command()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # everything is closed by now; taking torch, Ray and MLflow apart would take 1.5 s more


def run_command() -> int:
    """Runs the command line; its exit code."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        app(standalone_mode=True)
    except SystemExit as error:  # how typer ends
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    except InputError as error:
        return _end(str(error), 2)
    except WorkFailedError as error:
        return _end(str(error), 1)
    except KeyboardInterrupt:
        return _end("interrupted", 1)
    except Exception as error:  # noqa: BLE001  the last word on any error
        if is_disk_full(error):
            return _end(f"no space left on the disk: {error}", 2)
        traceback.print_exc()
        return 1
    return 0


def _say(message: str) -> None:
    err.print(f"refsweep: {message}", markup=False, highlight=False, soft_wrap=True)


def _end(message: str, code: int) -> int:
    _say(message)
    return code


@contextlib.contextmanager
def _heard_at_once() -> Iterator[None]:
    """Says what is wrong with the input before what has started in the background is ended."""
    try:
        yield
    except InputError as error:
        _say(str(error))
        raise typer.Exit(2) from error


def show(content: Any, as_json: bool, *rendered: Any) -> None:
    """A result: as JSON, or as people read it."""
    if as_json:
        sys.stdout.write(json.dumps(content, default=str) + "\n")
        return
    for part in rendered:
        out.print(part, highlight=False)


def table(title: str, rows: list[dict[str, Any]]) -> Table:
    """Rows with the same keys."""
    made = Table(title=title, title_justify="left")
    for name in rows[0] if rows else ():
        made.add_column(name)
    for row in rows:
        made.add_row(*("" if v is None else f"{v:.4g}" if isinstance(v, float) else str(v) for v in row.values()))
    return made


# -- data ----------------------------------------------------------------------------------------------------


@data_app.command("make")
def data_make(
    kind: Annotated[str, typer.Argument(help="refer-kitti")],
    folder: Annotated[str, typer.Argument(metavar="OUT", help="An empty or new folder, or s3://.")],
    kitti_labels: Annotated[str | None, typer.Option(help="Folder of KITTI label files: move as they do.")] = None,
    kitti_tracks: Annotated[
        str | None,
        typer.Option(
            help="Folder of KITTI track files for cars; `none` makes them. Default: StrongSORT's beside the labels."
        ),
    ] = None,
    videos: Annotated[int, typer.Option(help="Procedural videos.")] = 22,
    frames: Annotated[int, typer.Option(help="Of a procedural video.")] = 60,
    width: Annotated[int, typer.Option(help="Of an image, in pixels; KITTI's own is 1242.")] = 416,
    expressions: Annotated[int, typer.Option(help="Most expressions of a video.")] = 24,
    seed: int = 0,
    as_json: Json = False,
) -> None:
    """Make a procedural data set in a published layout."""
    from ..datasets.made.refer_kitti import Recipe, find_tracks, make

    if kind != "refer-kitti":
        raise InputError(f"kind must be refer-kitti, got {kind!r}")
    recipe = Recipe(
        videos=videos,
        frames=frames,
        width=width,
        expressions=expressions,
        seed=seed,
        kitti_labels=kitti_labels,
        kitti_tracks=find_tracks(kitti_labels, kitti_tracks),
    )
    counts = make(Store(folder), recipe, lambda line: err.print(line, highlight=False))
    said = ", ".join(f"{v} {k}" for k, v in counts.items())
    show(
        {"uri": Store(folder).uri, "tracks_of_cars": recipe.kitti_tracks or "made", **counts},
        as_json,
        f"{Store(folder).uri}: {said}",
    )


@data_app.command("check")
def data_check(uri: str, tracks: str = "tracks", as_json: Json = False) -> None:
    """Find everything that is wrong with a Refer-KITTI data set."""
    from ..datasets.check_refer_kitti import check

    findings = check(Store(uri), tracks)
    said = ", ".join(f"{v} {k}" for k, v in findings.counts.items())
    problems = [{"where": p.where, "what": p.what} for p in findings.problems]
    show(
        {"uri": uri, "counts": findings.counts, "problems": problems},
        as_json,
        f"{uri}: {said}",
        *map(str, findings.problems),
    )
    if problems:
        raise InputError(f"{len(problems)} problem{'s' if len(problems) > 1 else ''} in {uri}")


@data_app.command("labels")
def data_labels(
    uri: Annotated[str, typer.Argument(help="Data set with expression/<video>/*.json.")],
    kitti_labels: Annotated[str, typer.Option(help="Folder of KITTI label files.")],
    labels_with_ids: Annotated[str | None, typer.Option(help="Folder <video>/<frame>.txt to verify ids with.")] = None,
    convention: Annotated[
        str, typer.Option(help="aligned or published: see the reader's notes on frames.")
    ] = "aligned",
    as_json: Json = False,
) -> None:
    """Build Refer-KITTI_labels.json and gt_template/ from KITTI labels and expression files."""
    from ..datasets.refer_kitti_write import build_labels

    if convention not in ("aligned", "published"):
        raise InputError(f"convention must be aligned or published, got {convention!r}")
    verify = Store(labels_with_ids) if labels_with_ids else None
    counts = build_labels(Store(uri), Store(kitti_labels), convention, verify)  # type: ignore[arg-type]
    said = ", ".join(f"{v} {k}" for k, v in counts.items())
    show({"uri": uri, "convention": convention, **counts}, as_json, f"{uri} ({convention}): {said}")


# -- sweeps --------------------------------------------------------------------------------------------------


@sweep_app.command("run")
def sweep_run(spec: str, sets: Sets = None, plain: Plain = False, as_json: Json = False) -> None:
    """Run a sweep; go on with it if it has begun."""
    from .ray_start import ray_in_background
    from .spec import make_spec, read_spec

    content = read_spec(spec, sets or ())
    with ray_in_background() as connected, _heard_at_once():
        from . import sweep

        outcome = sweep.run(make_spec(content, spec), connected, plain=plain or None)
    _report(outcome, as_json)


@sweep_app.command("resume")
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
    from .ray_start import ray_in_background

    record = _open(name, storage, ledger)
    more = [f"search.trials={trials}"] if trials is not None else []
    with ray_in_background() as connected, _heard_at_once():
        from . import sweep

        spec = sweep.stored_spec(record, [*(sets or ()), *more])
        record.close()
        outcome = sweep.run(spec, connected, plain=plain or None, retry_failed=retry_failed, resuming=True)
    _report(outcome, as_json)


@sweep_app.command("status")
def sweep_status(
    name: Name, storage: Storage = "./refsweep-out", ledger: LedgerUrl = None, as_json: Json = False
) -> None:
    """Say how a sweep stands."""
    from . import sweep
    from .view import summary

    record = _open(name, storage, ledger)
    found = sweep.status(record)
    show(found, as_json, summary(record, record.attributes["spec"], found["state"]), *_halt_lines(record))


@sweep_app.command("list")
def sweep_list(storage: Storage = "./refsweep-out", ledger: LedgerUrl = None, as_json: Json = False) -> None:
    """List the sweeps of a ledger."""
    from . import sweep

    found = sweep.list_sweeps(_ledger_url(storage, ledger))
    show({"sweeps": found}, as_json, table("sweeps", found))


@sweep_app.command("stop")
def sweep_stop(
    name: Name, storage: Storage = "./refsweep-out", ledger: LedgerUrl = None, as_json: Json = False
) -> None:
    """Ask a running sweep to write checkpoints and stop."""
    from . import sweep

    state = sweep.stop(_open(name, storage, ledger))
    show({"name": name, "state": state}, as_json, f"sweep {name}: {state}")
    if state == "running":
        raise WorkFailedError(f"sweep {name} has not stopped yet")


@sweep_app.command("sync")
def sweep_sync(
    name: Name, storage: Storage = "./refsweep-out", ledger: LedgerUrl = None, as_json: Json = False
) -> None:
    """Send MLflow all that it lacks of a sweep; nothing twice."""
    from . import sweep

    record = _open(name, storage, ledger)
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


def _ledger_url(storage: str, ledger: str | None) -> str:
    from .ledger import check_url

    if ledger is None and storage.startswith("s3://"):
        raise InputError("--ledger must be given with s3:// storage")
    return check_url(ledger) if ledger else f"sqlite:///{Path(storage).expanduser().absolute()}/ledger.db"


def _open(name: str, storage: str, ledger: str | None) -> Ledger:
    from .ledger import Ledger

    return Ledger.open(_ledger_url(storage, ledger), name)


def _halt_lines(record: Ledger) -> list[str]:
    if not record.attributes.get("halted"):
        return []
    failure = record.attributes.get("halted_with") or {}
    return [f"[red]halted:[/red] {record.attributes['halted']}", str(failure.get("traceback", ""))]


def _report(outcome: Outcome, as_json: bool) -> None:
    from . import sweep
    from .view import summary

    record = outcome.ledger
    found = sweep.status(record)
    spec = record.attributes["spec"]
    lines: list[Any] = [summary(record, spec, outcome.state)]
    if outcome.behind:
        lines.append(f"MLflow is behind ({outcome.behind}): `refsweep sweep sync {record.sweep}` sends the rest")
    show({**found, "state": outcome.state}, as_json, *lines, *_halt_lines(record))
    record.close()
    if outcome.state == "halted":
        message = f"sweep {record.sweep} halted: {outcome.cause}"
        raise InputError(message) if outcome.bad_input else WorkFailedError(message)
    if outcome.state == "stopped":
        raise WorkFailedError(f"sweep {record.sweep} stopped: `refsweep sweep resume {record.sweep}` goes on")
    if found["best"] is None:
        raise WorkFailedError(f"no trial of sweep {record.sweep} was completed")


@app.command()
def space(trainable: str, as_json: Json = False) -> None:
    """Show a trainable's search space."""
    from .sweep import describe_space

    rows = describe_space(trainable)
    show({"trainable": trainable, "parameters": rows}, as_json, table(f"search space of {trainable}", rows))


@app.command()
def train(
    trainable: str,
    data: Annotated[str, typer.Option(help="Folder, s3://, or none.")],
    folder: Annotated[
        str, typer.Option("--out", help="Checkpoints go here; an earlier run is gone on with.")
    ] = "./refsweep-out/train",
    sets: Annotated[list[str] | None, typer.Option("--set", help="FIELD=VALUE of the Config; repeatable.")] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "auto",
    as_json: Json = False,
) -> None:
    """Train once, without a search. Ctrl-C writes a checkpoint; the same command goes on from it."""
    from .train import train_once

    def said(line: str) -> None:
        err.print(line, highlight=False)

    result = train_once(trainable, data, folder, sets or [], device, said)
    show(
        result,
        as_json,
        table(f"{trainable}: epoch {result['epoch']}", [result["metrics"]]),
        f"checkpoint {result['checkpoint']}",
    )
    if not result["final"]:
        raise WorkFailedError(f"stopped in epoch {result['epoch'] + 1}: the same command goes on")
