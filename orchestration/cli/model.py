"""`refsweep model`: promote, inspect and use trained models."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ...datasets.problems import InputError
from ...datasets.storage.store import Store
from .output import Json, Storage, show, table, tell

if TYPE_CHECKING:
    from ...trainables.training.package import Package
    from ..registry.registry import Registry

app = typer.Typer(no_args_is_help=True, help="Promote, inspect and use trained models.")

Tracking = Annotated[
    str | None,
    typer.Option("--tracking", help="MLflow. Default: MLFLOW_TRACKING_URI, else sqlite:///<storage>/mlflow.db."),
]
Model = Annotated[
    str, typer.Argument(help="MODEL (its champion), MODEL@ALIAS, MODEL/VERSION, or a package's folder or s3://.")
]


def _registry(storage: str, tracking: str | None) -> Registry:
    from ..registry.registry import Registry

    if tracking is None:
        tracking = os.environ.get("MLFLOW_TRACKING_URI")
    if tracking is None:
        if storage.startswith("s3://"):
            raise InputError("--tracking must be given with s3:// storage")
        path = Path(storage).expanduser().absolute() / "mlflow.db"
        if not path.exists():
            raise InputError(f"no MLflow at {path}: run a sweep first, or give --tracking")
        tracking = f"sqlite:///{path}"
    return Registry(tracking)


def _package(name: str, storage: str, tracking: str | None) -> Package:
    from ...trainables.training.package import Package

    if ("/" in name and not name.partition("/")[2].isdigit()) or name.startswith(("s3://", ".")):
        return Package.read(Store(name))
    with tempfile.TemporaryDirectory() as folder:
        return _registry(storage, tracking).fetch(name, Path(folder))[0]


@app.command("list")
def list_models(storage: Storage = "./refsweep-out", tracking: Tracking = None, as_json: Json = False) -> None:
    """List registered models."""
    models = _registry(storage, tracking).models()
    show({"models": models}, as_json, table("models", models))


@app.command("show")
def show_model(
    model: str, storage: Storage = "./refsweep-out", tracking: Tracking = None, as_json: Json = False
) -> None:
    """Show the versions of a model."""
    versions = _registry(storage, tracking).versions_of(model)
    show({"model": model, "versions": versions}, as_json, table(f"model {model}", versions))


@app.command()
def promote(
    context: typer.Context,
    sweep: Annotated[str, typer.Argument(help="Sweep whose best trial becomes champion.")],
    trial: Annotated[int | None, typer.Option(help="Another trial than the best.")] = None,
    storage: Storage = "./refsweep-out",
    ledger: Annotated[str | None, typer.Option(help="Default: <storage>/ledger.db.")] = None,
    as_json: Json = False,
) -> None:
    """Register a sweep's best trial and make it champion of the model named after its trainable."""
    from ..registry.requirements import ServingProcess
    from .places import find

    # the second process imports the model's code while this one does
    with find(context, sweep, storage, ledger) as opened, ServingProcess(opened.spec.trainable) as serving:
        version = opened.promote(trial, serving)
    was = f", in place of version {version['replaced']}" if version["replaced"] else ""
    line = f"{version['model']} version {version['version']} (trial {version['trial']}) is champion{was}"
    show(version, as_json, line)


@app.command()
def rollback(model: str, storage: Storage = "./refsweep-out", tracking: Tracking = None, as_json: Json = False) -> None:
    """Make the previous champion champion again."""
    version = _registry(storage, tracking).rollback(model)
    replaced = version["replaced"]
    show(version, as_json, f"{model} version {version['version']} is champion again, in place of version {replaced}")


@app.command("import")
def import_model(
    trainable: str,
    checkpoint: Annotated[str, typer.Argument(help="A published checkpoint: file or s3:// object.")],
    folder: Annotated[str, typer.Option("--out", help="The package goes here.")],
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", help="FIELD=VALUE: what the checkpoint does not say itself; repeatable."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Turn a published checkpoint into a package that evaluates, serves, and starts a training (Config `init`)."""
    from ...trainables import coercion, discovery
    from ..spec.read import override

    package = discovery.capability(trainable, "import_checkpoint", "import")(checkpoint, override({}, sets or ()))
    package.write(Store(folder))
    changed = coercion.differing(discovery.load_config(trainable), package.config)
    content = {"trainable": trainable, "package": Store(folder).uri, "config": changed}
    rows = [{"field": name, "value": value} for name, value in changed.items()]
    show(content, as_json, table(f"{content['package']}: fields that are not the default", rows))


@app.command()
def evaluate(
    model: Model,
    data: Annotated[str, typer.Option(help="Data set: folder, s3:// or made:.")],
    split: Annotated[str, typer.Option(help="train, calibration, validation or test.")] = "test",
    storage: Storage = "./refsweep-out",
    tracking: Tracking = None,
    as_json: Json = False,
) -> None:
    """Measure a model on a split, under the post-hoc setting that travels with it."""
    from ..evaluate import evaluate as measure
    from ..spec.data import place_of

    figures = measure(_package(model, storage, tracking), place_of(data, storage), split)
    rows = [{"figure": k, "value": v} for k, v in figures.items()]
    show({"model": model, "split": split, "metrics": figures}, as_json, table(f"{model} on {split}", rows))


@app.command()
def track(
    model: Model,
    data: Annotated[str, typer.Option(help="Data set: folder, s3:// or made:.")],
    video: Annotated[str, typer.Option(help="Name of the video.")],
    expression: Annotated[list[str], typer.Option(help="What to follow; repeatable.")],
    file: Annotated[Path, typer.Option("--out", help="The MP4 to write.")] = Path("track.mp4"),
    storage: Storage = "./refsweep-out",
    tracking: Tracking = None,
    as_json: Json = False,
) -> None:
    """Follow expressions through a video and draw them into an MP4."""
    from ..spec.data import place_of
    from ..track import track as follow

    tell(f"tracking {', '.join(expression)} in video {video}")
    tracked = follow(_package(model, storage, tracking), place_of(data, storage), video, expression, file)
    show(tracked, as_json, table(f"{tracked['out']}: {tracked['frames']} frames", tracked["found"]))


@app.command()
def query(
    model: Model,
    gallery: Annotated[str, typer.Option(help="Data set, any folder of images, s3:// or made:.")],
    text: Annotated[str | None, typer.Option(help="Who is searched for, in words.")] = None,
    image: Annotated[
        list[str] | None, typer.Option(help="MODALITY=FILE, as nir=a.jpg; repeatable. Only for models that take some.")
    ] = None,
    identity: Annotated[
        int | None, typer.Option(help="Who it is, if you know: right answers are framed green, wrong ones red.")
    ] = None,
    top: Annotated[int, typer.Option(help="How many answers.")] = 10,
    split: Annotated[str, typer.Option(help="Of a data set: train, calibration, validation or test.")] = "test",
    file: Annotated[Path, typer.Option("--out", help="The PNG to write.")] = Path("query.png"),
    storage: Storage = "./refsweep-out",
    tracking: Tracking = None,
    as_json: Json = False,
) -> None:
    """Search a gallery, and draw the query and its best answers."""
    from ..query import open_gallery
    from ..query import query as ask
    from ..spec.data import place_of

    package = _package(model, storage, tracking)
    opened = open_gallery(package, place_of(gallery, storage), split)
    answer = ask(package, opened, text, image or (), identity, top, file)
    show(answer, as_json, table(f"{answer['out']}: the best of {answer['gallery']} images", answer["found"]))
