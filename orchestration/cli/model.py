"""`refsweep model`: promote, inspect and use trained models."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ...datasets.problems import InputError
from ...datasets.storage.store import Store
from .output import Json, Storage, open_ledger, show, table, tell

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
    found = _registry(storage, tracking).models()
    show({"models": found}, as_json, table("models", found))


@app.command("show")
def show_model(
    model: str, storage: Storage = "./refsweep-out", tracking: Tracking = None, as_json: Json = False
) -> None:
    """Show the versions of a model."""
    found = _registry(storage, tracking).versions_of(model)
    show({"model": model, "versions": found}, as_json, table(f"model {model}", found))


@app.command()
def promote(
    sweep: Annotated[str, typer.Argument(help="Sweep whose best trial becomes champion.")],
    trial: Annotated[int | None, typer.Option(help="Another trial than the best.")] = None,
    storage: Storage = "./refsweep-out",
    ledger: Annotated[str | None, typer.Option(help="Default: <storage>/ledger.db.")] = None,
    as_json: Json = False,
) -> None:
    """Register a sweep's best trial and make it champion of the model named after its trainable."""
    from ..registry.requirements import ServingProcess

    record = open_ledger(sweep, storage, ledger)
    with ServingProcess(record.attributes["spec"]["trainable"]) as serving:  # imports the model's code meanwhile
        from ..registry.registry import Registry
        from ..spec.data import data_of
        from ..sweep import stored_spec

        spec = stored_spec(record)
        if spec.tracking_uri is None:
            raise InputError("tracking: this sweep has none, and models are registered in MLflow")
        found = Registry(spec.tracking_uri).promote(spec, record, data_of(spec), trial, serving)
    record.close()
    was = f", in place of version {found['replaced']}" if found["replaced"] else ""
    show(found, as_json, f"{found['model']} version {found['version']} (trial {found['trial']}) is champion{was}")


@app.command()
def rollback(model: str, storage: Storage = "./refsweep-out", tracking: Tracking = None, as_json: Json = False) -> None:
    """Make the previous champion champion again."""
    found = _registry(storage, tracking).rollback(model)
    show(
        found, as_json, f"{model} version {found['version']} is champion again, in place of version {found['replaced']}"
    )


@app.command("import")
def import_model(
    trainable: str,
    checkpoint: Annotated[str, typer.Argument(help="A published checkpoint: file or s3:// object.")],
    folder: Annotated[str, typer.Option("--out", help="The package goes here.")],
    kum_mode: Annotated[
        str | None, typer.Option(help="In the published words or ours; guessed where the weights tell.")
    ] = None,
    text_heads: Annotated[int | None, typer.Option(help="Of the text tower; default width / 64.")] = None,
    as_json: Json = False,
) -> None:
    """Turn a published iKUN checkpoint into a package that evaluates, tracks, and starts a training (Config `init`)."""
    from ...trainables.ikun import task as ikun
    from ...trainables.ikun.reference import guess_mode
    from ...trainables.towers.clip import read_weights

    if trainable != "ikun":
        raise InputError(f"only ikun has published checkpoints to import, got {trainable!r}")
    state = read_weights(checkpoint)
    package = ikun.import_reference(state, kum_mode if kum_mode is not None else guess_mode(state), text_heads)
    package.write(Store(folder))
    said = {
        "trainable": trainable,
        "package": Store(folder).uri,
        "kum_mode": package.config["kum_mode"],
        "tower": package.config["tower"],
    }
    show(said, as_json, f"{said['package']}: {said['tower']}, {said['kum_mode'] or 'no text guidance'}")


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
    from ..evaluate import track as follow
    from ..spec.data import place_of

    tell(f"tracking {', '.join(expression)} in video {video}")
    found = follow(_package(model, storage, tracking), place_of(data, storage), video, expression, file)
    show(found, as_json, table(f"{found['out']}: {found['frames']} frames", found["found"]))


@app.command()
def query(
    model: Model,
    gallery: Annotated[str, typer.Option(help="Data set, any folder of images, s3:// or made:.")],
    text: Annotated[str | None, typer.Option(help="Who is asked for, in words.")] = None,
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
    """Find a person in a gallery, and draw the query and its best answers."""
    from ..query import open_gallery
    from ..query import query as ask
    from ..spec.data import place_of

    package = _package(model, storage, tracking)
    among = open_gallery(package, place_of(gallery, storage), split)
    found = ask(package, among, text, image or (), identity, top, file)
    show(found, as_json, table(f"{found['out']}: the best of {found['gallery']} images", found["found"]))
