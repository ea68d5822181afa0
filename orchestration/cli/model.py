"""`refsweep model`: promote, inspect and use trained models."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ...datasets.problems import InputError
from ...datasets.storage.store import Store
from .output import Json, Storage, SweepTracking, Tracking, show, table, tell

if TYPE_CHECKING:
    from ...trainables.training.package import Package
    from ..registry.registry import Registry

app = typer.Typer(no_args_is_help=True, help="Promote, inspect and use trained models.")

Model = Annotated[
    str, typer.Argument(help="MODEL (its champion), MODEL@ALIAS, MODEL/VERSION, or a package's folder or s3://.")
]

Tracks = Annotated[
    str | None,
    typer.Option(
        "--tracks", help="Folder of tracker output in the data set. Default: what the model was trained with."
    ),
]


def _registry(storage: str, tracking: str | None) -> Registry:
    from ..registry.names import UnknownModelError
    from ..registry.registry import Registry
    from ..spec.locations import check_tracking, folder_path, sqlite_path
    from ..spec.places import tracking_by_rule

    uri = tracking_by_rule(None if tracking is None else check_tracking(tracking, "--tracking"))
    if uri == "none":
        raise InputError("--tracking must name an MLflow: models are registered there")
    if uri is None:
        if storage.startswith("s3://"):
            raise InputError("--tracking must be given with s3:// storage")
        uri = check_tracking(f"sqlite:///{folder_path(storage)}/mlflow.db", "--storage")
    path = sqlite_path(uri)
    if path is not None and not path.exists():
        raise UnknownModelError(f"no MLflow at {path}: run a sweep first, or give --tracking")
    return Registry(uri)


def _package(name: str, storage: str, tracking: str | None) -> Package:
    """The package that a name stands for: of a registered version, else of a folder."""
    from ...trainables.training.package import PACKAGE, Package
    from ..registry.names import UnknownModelError, is_place

    if is_place(name):
        return Package.read(Store(name))
    try:
        with tempfile.TemporaryDirectory() as folder:
            return _registry(storage, tracking).fetch(name, Path(folder))[0]
    except UnknownModelError:
        if (Path(name) / PACKAGE).is_file():
            return Package.read(Store(name))
        raise


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
    tracking: SweepTracking = None,
    as_json: Json = False,
) -> None:
    """Register a sweep's best trial and make it champion of the model named after its trainable."""
    from ..registry.requirements import ServingProcess
    from .places import find

    # the second process imports the model's code while this one does
    found = find(context, sweep, storage, ledger, tracking)
    with found as opened, ServingProcess(opened.spec.trainable) as serving:
        version = opened.promote(trial, serving)
    was = f", in place of version {version['replaced']}" if version["replaced"] else ""
    line = f"{version['model']} version {version['version']} (trial {version['trial']}) is champion{was}"
    show(version, as_json, line)


@app.command()
def rollback(
    model: str,
    to: Annotated[int | None, typer.Option("--to", help="This version instead of the one before.", min=1)] = None,
    storage: Storage = "./refsweep-out",
    tracking: Tracking = None,
    as_json: Json = False,
) -> None:
    """Make the champion before the present one champion again; each time one further back."""
    version = _registry(storage, tracking).rollback(model, to)
    replaced = version["replaced"]
    was = f", in place of version {replaced}" if replaced else ""
    show(version, as_json, f"{model} version {version['version']} is champion again{was}")


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
    tracks: Tracks = None,
    storage: Storage = "./refsweep-out",
    tracking: Tracking = None,
    as_json: Json = False,
) -> None:
    """Measure a model on a split, under the post-hoc setting that travels with it."""
    from ..evaluate import evaluate as measure
    from ..spec.data import place_of

    figures = measure(_package(model, storage, tracking), place_of(data, storage), split, tracks)
    rows = [{"figure": k, "value": v} for k, v in figures.items()]
    show({"model": model, "split": split, "metrics": figures}, as_json, table(f"{model} on {split}", rows))


@app.command()
def track(
    model: Model,
    data: Annotated[str, typer.Option(help="Data set: folder, s3:// or made:.")],
    video: Annotated[str, typer.Option(help="Name of the video.")],
    expression: Annotated[list[str], typer.Option(help="What to follow; repeatable.")],
    tracks: Tracks = None,
    file: Annotated[Path, typer.Option("--out", help="The MP4 to write.")] = Path("track.mp4"),
    storage: Storage = "./refsweep-out",
    tracking: Tracking = None,
    as_json: Json = False,
) -> None:
    """Follow expressions through a video and draw them into an MP4."""
    from ..spec.data import place_of
    from ..track import track as follow

    tell(f"tracking {', '.join(expression)} in video {video}")
    package = _package(model, storage, tracking)
    tracked = follow(package, place_of(data, storage), video, expression, file, tracks=tracks)
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
