"""`refsweep data`: make, check, pack and label data sets."""

from __future__ import annotations

from typing import Annotated

import typer

from ..datasets.problems import InputError
from ..datasets.store import Store
from .cli_output import Json, show, tell

app = typer.Typer(no_args_is_help=True, help="Make, check, pack and label data sets.")


@app.command("make")
def make_data(
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
    counts = make(Store(folder), recipe, tell)
    said = ", ".join(f"{v} {k}" for k, v in counts.items())
    show(
        {"uri": Store(folder).uri, "tracks_of_cars": recipe.kitti_tracks or "made", **counts},
        as_json,
        f"{Store(folder).uri}: {said}",
    )


@app.command("check")
def check_data(uri: str, tracks: str = "tracks", as_json: Json = False) -> None:
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


@app.command("pack")
def pack_data(
    uri: Annotated[str, typer.Argument(help="Refer-KITTI data set: a folder or s3://.")],
    folder: Annotated[str, typer.Argument(metavar="OUT", help="An empty or new folder, or s3://.")],
    frame_px: Annotated[
        int | None, typer.Option(help="Shrink frames to this longest side, in pixels; default: leave them as they are.")
    ] = None,
    shard_mb: Annotated[float, typer.Option(help="Size of a file of frames.")] = 128,
    group_mb: Annotated[float, typer.Option(help="Size of what is read together.")] = 2,
    as_json: Json = False,
) -> None:
    """Pack frames into large files for object storage. Use OUT like the data set; run again to go on after a stop."""
    from ..datasets.pack import Packing, pack

    packing = Packing(frame_px=frame_px, shard_mb=shard_mb, group_mb=group_mb)
    found = pack(Store(uri), Store(folder), packing, tell)
    said = f"{found['frames']} frames, {found['mb']:.1f} MB in {found['shards']} shards, {found['s']:.1f} s"
    show({"uri": Store(folder).uri, "source": uri, **found}, as_json, f"{Store(folder).uri}: {said}")


@app.command("labels")
def label_data(
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
