"""`refsweep data`: make, check, pack and label data sets."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ...datasets.problems import InputError
from ...datasets.storage.store import Store
from .output import Json, show, tell

app = typer.Typer(no_args_is_help=True, help="Make, check, pack and label data sets.")


@app.command("make")
def make_data(
    kind: Annotated[str, typer.Argument(help="refer-kitti, cuhk-pedes or orbench.")],
    folder: Annotated[str, typer.Argument(metavar="OUT", help="An empty or new folder, or s3://.")],
    kitti_labels: Annotated[str | None, typer.Option(help="Folder of KITTI label files: move as they do.")] = None,
    kitti_tracks: Annotated[
        str | None,
        typer.Option(
            help="Folder of KITTI track files for cars; `none` makes them. Default: StrongSORT's beside the labels."
        ),
    ] = None,
    videos: Annotated[int | None, typer.Option(help="Procedural videos. refer-kitti: 22.")] = None,
    frames: Annotated[int | None, typer.Option(help="Of a procedural video. refer-kitti: 60.")] = None,
    width: Annotated[
        int | None, typer.Option(help="Of an image, in pixels. refer-kitti: 416, KITTI's own is 1242; people: 48.")
    ] = None,
    expressions: Annotated[int | None, typer.Option(help="Most expressions of a video. refer-kitti: 24.")] = None,
    identities: Annotated[int | None, typer.Option(help="People, a fifth for val, a fifth for test: 600.")] = None,
    images: Annotated[int | None, typer.Option(help="Of an identity, in each modality. People: 4.")] = None,
    captions: Annotated[int | None, typer.Option(help="Of an image. People: 2.")] = None,
    cameras: Annotated[int | None, typer.Option(help="People: 4.")] = None,
    changed: Annotated[float | None, typer.Option(help="Share of images in unusual clothes. People: 0.25.")] = None,
    height: Annotated[int | None, typer.Option(help="Of an image, in pixels. People: 96.")] = None,
    seed: int = 0,
    as_json: Json = False,
) -> None:
    """Make a procedural data set in a published layout."""
    from ...datasets.made.refer_kitti import find_tracks
    from ..spec.made_data import kind_of, listed

    made = kind_of(kind, "kind")
    given: dict[str, Any] = {
        "videos": videos, "frames": frames, "width": width, "expressions": expressions, "identities": identities,
        "images": images, "captions": captions, "cameras": cameras, "changed": changed, "height": height, "seed": seed,
    }  # fmt: skip
    fields = {name: value for name, value in given.items() if value is not None}
    wrong = sorted(fields.keys() - made.numbers.keys())
    if kind == "refer-kitti":
        fields |= {"kitti_labels": kitti_labels, "kitti_tracks": find_tracks(kitti_labels, kitti_tracks)}
    elif kitti_labels or kitti_tracks:
        wrong.append("kitti_labels" if kitti_labels else "kitti_tracks")
    if wrong:
        raise InputError(f"{kind} takes {listed(made.numbers)}, got {', '.join(wrong)}")
    recipe = made.recipe(**fields)
    counts = made.make(Store(folder), recipe, tell)
    said = ", ".join(f"{v} {k}" for k, v in counts.items())
    facts = {"tracks_of_cars": recipe.kitti_tracks or "made"} if kind == "refer-kitti" else {}
    show({"uri": Store(folder).uri, **facts, **counts}, as_json, f"{Store(folder).uri}: {said}")


@app.command("check")
def check_data(
    uri: Annotated[str, typer.Argument(help="Data set in a published layout: a folder or s3://.")],
    tracks: Annotated[str, typer.Option(help="Refer-KITTI: folder of tracker output.")] = "tracks",
    as_json: Json = False,
) -> None:
    """Find everything that is wrong with a data set; what is there says which layout it is."""
    from ...datasets.layouts.check import check

    layout, findings = check(Store(uri), tracks)
    said = ", ".join(f"{v} {k.replace('_', ' ')}" for k, v in findings.counts.items()) or "not read"
    problems = [{"where": p.where, "what": p.what} for p in findings.problems]
    show(
        {"uri": uri, "layout": layout, "counts": findings.counts, "problems": problems},
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
    from ...datasets.frames.pack import Packing, pack

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
    from ...datasets.layouts.refer_kitti_write import build_labels

    if convention not in ("aligned", "published"):
        raise InputError(f"convention must be aligned or published, got {convention!r}")
    verify = Store(labels_with_ids) if labels_with_ids else None
    counts = build_labels(Store(uri), Store(kitti_labels), convention, verify)  # type: ignore[arg-type]
    said = ", ".join(f"{v} {k}" for k, v in counts.items())
    show({"uri": uri, "convention": convention, **counts}, as_json, f"{uri} ({convention}): {said}")
