"""The command line: parses, calls, prints. Exit code 0 done, 1 the work failed, 2 bad input.

With --json a command prints one JSON object on stdout and nothing else. Modules are imported where a command
needs them: `refsweep --help` loads neither Ray nor torch.
"""

from __future__ import annotations

import json
from typing import Annotated, NoReturn

import typer

from ..spec.errors import WorkFailedError
from . import cluster as cli_cluster
from . import data as cli_data
from . import model as cli_model
from . import sweep as cli_sweep
from .output import Json, show, table, tell
from .process import end, exit_code

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help=__doc__.splitlines()[0], pretty_exceptions_enable=False
)
app.add_typer(cli_data.app, name="data")
app.add_typer(cli_sweep.app, name="sweep")
app.add_typer(cli_model.app, name="model")
app.add_typer(cli_cluster.app, name="cluster")


def main() -> NoReturn:
    """Entry point of `refsweep`."""
    end(run_command())


def run_command() -> int:
    """Runs the command line; its exit code."""
    return exit_code(lambda: app(standalone_mode=True))


@app.command()
def space(trainable: str, as_json: Json = False) -> None:
    """Show a trainable's search space, and the fields of its Config that are not searched."""
    from ..search.spaces import describe_fields, describe_space

    rows, fields = describe_space(trainable), describe_fields(trainable)
    in_yaml = [{**field, "default": json.dumps(field["default"])} for field in fields]
    tables = [table(f"search space of {trainable}", rows), table("not searched; `fixed` may hold any", in_yaml)]
    show({"trainable": trainable, "parameters": rows, "fields": fields}, as_json, *tables)


@app.command()
def train(
    trainable: str,
    data: Annotated[str, typer.Option(help="Folder, s3://, or none.")],
    folder: Annotated[
        str, typer.Option("--out", help="Folder for checkpoints. Continues an earlier run that it holds.")
    ] = "./refsweep-out/train",
    sets: Annotated[list[str] | None, typer.Option("--set", help="FIELD=VALUE of the Config; repeatable.")] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "auto",
    as_json: Json = False,
) -> None:
    """Train once, without a search. Ctrl-C or SIGTERM writes a checkpoint; the same command continues from it."""
    from ..train import train_once

    result = train_once(trainable, data, folder, sets or [], device, tell)
    show(
        result,
        as_json,
        table(f"{trainable}: epoch {result['epoch']}", [result["metrics"]]),
        f"checkpoint {result['checkpoint']}",
    )
    if not result["final"]:
        raise WorkFailedError(f"stopped in epoch {result['epoch'] + 1}: the same command continues it")


@app.command()
def demo(
    folder: Annotated[str, typer.Option("--out", help="Everything goes here.")] = "./refsweep-demo",
    plain: Annotated[bool, typer.Option("--plain", help="Lines instead of the live table.")] = False,
    as_json: Json = False,
) -> None:
    """All of it, embedded, in minutes: data, sweep, promotion, a tracked video."""
    from .demo import run_demo

    result = run_demo(folder, tell, plain=plain or None)
    trials = [{k: t[k] for k in ("number", "state", "epoch", "value", "cause")} for t in result["trials"]]
    figures = [{"figure": k, "test split": v} for k, v in result["test"].items()]
    places = [{"what": k, "where": v} for k, v in result["places"].items()]
    tables = [("trials", trials), ("champion on the test split", figures), ("tracked", result["tracked"])]
    show(
        result,
        as_json,
        *(table(title, rows) for title, rows in tables),
        table("what happened", result["steps"]),
        table("where it is", places),
    )
