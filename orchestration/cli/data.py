"""`refsweep data`: make, check, pack and label data sets, of whatever layout `datasets.discovery` finds."""

from __future__ import annotations

import inspect
from typing import Annotated, Any

import typer
from rich.text import Text
from typer.core import TyperCommand, TyperGroup

from ...datasets import discovery
from ...datasets.problems import InputError
from ...datasets.recipes import fields_of, listed
from ...datasets.storage.store import Store
from .output import Json, show, tell

Out = Annotated[str, typer.Argument(metavar="OUT", help="An empty or new folder, or s3://.")]
Uri = Annotated[str, typer.Argument(help="Data set in a published layout: a folder or s3://.")]


class MakeGroup(TyperGroup):
    """`refsweep data make`: a command for each kind of made data, imported when it is asked for."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Every kind."""
        return list(discovery.made_kinds())

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of a kind. Raises InputError with the choices."""
        return _make_command(cmd_name)


class MakeCommand(TyperCommand):
    """`refsweep data make KIND`: refuses flags that the kind does not have by listing those that it has."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Raises InputError for an unknown flag."""
        known = [flag for parameter in self.params for flag in parameter.opts if flag.startswith("--")]
        given = [word.partition("=")[0] for word in args[: args.index("--") if "--" in args else None]]
        unknown = [flag for flag in given if flag.startswith("--") and flag not in (*known, "--help")]
        if unknown:
            flags = [flag for flag in known if flag != "--json"]
            raise InputError(f"{self.name} takes {listed(flags)}, got {', '.join(unknown)}")
        return list(super().parse_args(ctx, args))


app = typer.Typer(no_args_is_help=True, help="Make, check, pack and label data sets.")
app.add_typer(
    typer.Typer(cls=MakeGroup),
    name="make",
    help="Make a procedural data set in a published layout. `make KIND --help` shows what a kind takes.",
    subcommand_metavar="KIND OUT",
    no_args_is_help=True,
)


def _make_command(kind: str) -> Any:
    """The command that makes a kind of data; its flags are the fields of the kind's recipe."""
    maker = discovery.maker(kind)

    def make(out: str, as_json: bool, **values: Any) -> None:
        store = Store(out)
        made = maker.make(store, maker.Recipe(**values), tell)
        counts = ", ".join(f"{value} {name}" for name, value in made.items() if isinstance(value, int))
        show({"uri": store.uri, **made}, as_json, f"{store.uri}: {counts}")

    def parameter(name: str, annotation: Any, default: Any = inspect.Parameter.empty) -> inspect.Parameter:
        return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)

    flags = [
        parameter(field.name, Annotated[field.type, typer.Option(help=field.help)], field.default)
        for field in fields_of(maker.Recipe)
    ]
    # Typer reads the flags from the signature
    parameters = [parameter("out", Out), *flags, parameter("as_json", Json, False)]
    make.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    alone = typer.Typer(add_completion=False)
    alone.command(kind, cls=MakeCommand, help=str(inspect.getdoc(maker)).partition("\n")[0])(make)
    return typer.main.get_command(alone)


@app.command("check")
def check_data(
    uri: Uri,
    tracks: Annotated[
        str | None, typer.Option(help="Folder of tracker output, in layouts that have some; default: tracks.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Find everything that is wrong with a data set; its layout is recognised. Warnings are of what is left out."""
    options: dict[str, Any] = {} if tracks is None else {"tracks": tracks}
    layout, findings = discovery.check(Store(uri), **options)
    counts = ", ".join(f"{v} {k.replace('_', ' ')}" for k, v in findings.counts.items()) or "not read"
    problems, warnings = (
        [{"where": p.where, "what": p.what} for p in found] for found in (findings.problems, findings.warnings)
    )
    found = {"uri": uri, "layout": layout, "counts": findings.counts, "problems": problems}
    show(
        found | ({"warnings": warnings} if warnings else {}),
        as_json,
        Text(f"{uri}: {counts}"),
        *(Text(f"warning: {warning}") for warning in findings.warnings),
        *(Text(str(problem)) for problem in findings.problems),
    )
    if problems:
        raise InputError(f"{len(problems)} problem{'s' if len(problems) > 1 else ''} in {uri}")


@app.command("pack")
def pack_data(
    uri: Uri,
    folder: Out,
    frame_px: Annotated[
        int | None, typer.Option(help="Shrink frames to this longest side, in pixels; default: leave them as they are.")
    ] = None,
    shard_mb: Annotated[float, typer.Option(help="Size of a file of frames.")] = 128,
    group_mb: Annotated[float, typer.Option(help="Size of what is read together.")] = 2,
    as_json: Json = False,
) -> None:
    """Pack frames or pictures into large files for object storage. OUT is used like the data set itself.

    Run it again to continue after an interruption.
    """
    from ...datasets.frames.pack import Packing, pack

    packing = Packing(frame_px=frame_px, shard_mb=shard_mb, group_mb=group_mb)
    packed = pack(Store(uri), Store(folder), packing, tell)
    summary = f"{packed['frames']} frames, {packed['mb']:.1f} MB in {packed['shards']} shards, {packed['s']:.1f} s"
    show({"uri": Store(folder).uri, "source": uri, **packed}, as_json, f"{Store(folder).uri}: {summary}")


@app.command("labels")
def label_data(
    uri: Annotated[str, typer.Argument(help="Data set with expression/<video>/*.json.")],
    kitti_labels: Annotated[str, typer.Option(help="Folder of KITTI label files.")],
    labels_with_ids: Annotated[str | None, typer.Option(help="Folder <video>/<frame>.txt to verify ids with.")] = None,
    convention: Annotated[str, typer.Option(help="aligned or published: see docs/data.md.")] = "aligned",
    as_json: Json = False,
) -> None:
    """Build Refer-KITTI_labels.json and gt_template/ from KITTI labels and expression files."""
    from ...datasets.layouts.refer_kitti_write import build_labels

    if convention not in ("aligned", "published"):
        raise InputError(f"convention must be aligned or published, got {convention!r}")
    verify = Store(labels_with_ids) if labels_with_ids else None

    def warn(line: str) -> None:
        tell(f"warning: {line}")

    counts = build_labels(Store(uri), Store(kitti_labels), convention, verify, warn)  # type: ignore[arg-type]
    summary = ", ".join(f"{v} {k}" for k, v in counts.items())
    show({"uri": uri, "convention": convention, **counts}, as_json, f"{uri} ({convention}): {summary}")
