"""Packs a data set for object storage: frames shrunk and joined in large files, everything else copied.

Frames stream through: what is in memory is one shard and the frames that threads are at. An interrupted pack
continues after its last whole shard, and gives the files that an undisturbed one gives; until `packed.json` is
written, last of all, the result is refused as unfinished. Which files are frames or pictures, the layout says.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from .. import discovery
from ..contract import Tell
from ..fingerprint import fingerprint
from ..problems import DataError, InputError, Problem
from ..storage.leavings import data_walk, is_leaving
from ..storage.store import Store
from .cache import LooseFrames, read_frame
from .decode import PictureError, decode
from .packed import INDEX_FILE, INFO_FILE, UNFINISHED_FILE, PackInfo, Ranges, footer_of, shard_path

_INDEX_ROWS = 4096  # of a row group: what the look-up of one frame reads
_SHARD = pa.schema(
    {"path": pa.string(), "width": pa.int32(), "height": pa.int32(), "sha256": pa.binary(32), "image": pa.binary()}
)
_INDEX = pa.schema({"path": pa.string(), **dict.fromkeys(("shard", "group", "row", "width", "height"), pa.int32())})


@dataclass(frozen=True, slots=True, kw_only=True)
class Packing:
    """How frames are packed."""

    frame_px: int | None = None  # longest side in pixels, larger frames are shrunk to it; None keeps files as they are
    shard_mb: float = 128  # of images in a file: large enough that listing and opening cost nothing
    group_mb: float = 2  # of images that are read together: about what a request takes as long to send as to start

    def __post_init__(self) -> None:
        if self.frame_px is not None and self.frame_px < 1:
            raise InputError(f"frame_px must be >= 1, got {self.frame_px}")
        if not 0 < self.group_mb <= self.shard_mb <= 1024:
            raise InputError(f"must hold 0 < group_mb <= shard_mb <= 1024, got {self.group_mb} and {self.shard_mb}")


class Packed(NamedTuple):
    """A frame as it is stored."""

    path: str
    width: int  # as labelled
    height: int
    sha256: bytes  # of image
    image: bytes


def pack(
    source: Store, out: Store, packing: Packing, tell: Tell = lambda _: None, threads: int = 8
) -> dict[str, float]:
    """Packs a data set of any layout that has frames or pictures into an empty `out`; continues an interrupted pack.

    Returns `frames`, `shards`, `mb` of images, `went_on_after` (frames that an interrupted pack had stored) and
    seconds `s`. Raises InputError for places that can't be used and for data without frames, DataError for data that
    can't be read.
    """
    _check_places(source, out)
    layout = discovery.recognise(source)
    files = [path for path, _ in data_walk(source)]
    kind = discovery.layout(layout)
    frames = kind.frame_files(source, files)
    if not frames:
        raise InputError(f"{source.uri} can't be packed: this {layout} data holds no frames or pictures as image files")
    others = sorted(set(files) - set(frames))
    if any(path.startswith("frames/") and path.endswith(".parquet") for path in others):
        raise InputError(f"{source.uri} can't be packed: it has files frames/*.parquet, which are a pack's own names")
    data_fingerprint = fingerprint(source)
    unfinished = json.dumps({**asdict(packing), "source": data_fingerprint}, indent=1).encode()
    continues = _begin(out, unfinished)
    began, index, turn = time.perf_counter(), _Index(), not getattr(kind, "HAS_BOXES", False)
    done = _whole_shards(out, index) if continues else 0
    with ThreadPoolExecutor(threads) as pool:
        arguments = (source, packing.frame_px, turn)
        prepared = _prepared(pool, arguments, iter(frames[done:]), 2 * threads)
        for shard in _shards(prepared, packing):
            number = len(index.shards)
            out.write(shard_path(number), shard)
            index.add(io.BytesIO(shard), len(shard))
            rate = (index.frames - done) / (time.perf_counter() - began)
            tell(f"{shard_path(number)}: {index.frames} of {len(frames)} frames, {rate:.0f} frames/s")
        _copy(pool, source, out, others, threads)
    content = index.close()
    out.write(INDEX_FILE, content)
    info = PackInfo(
        layout=layout,
        frame_px=packing.frame_px,
        frames=index.frames,
        source=data_fingerprint,
        content=f"sha256:{index.hash.hexdigest()}",
        shards=index.shards,
        index=len(content),
        footers=[*index.footers, footer_of(io.BytesIO(content), len(content))],
    )
    out.write(INFO_FILE, info.to_json())
    out.delete(UNFINISHED_FILE)
    return {
        "frames": index.frames,
        "shards": len(index.shards),
        "mb": sum(index.shards) / 1e6,
        "went_on_after": done,
        "s": time.perf_counter() - began,
    }


def _check_places(source: Store, out: Store) -> None:
    here, there = (os.path.realpath(s.uri) if s.is_local else s.uri for s in (source, out))
    if f"{there}/".startswith(f"{here}/") or f"{here}/".startswith(f"{there}/"):
        raise InputError(f"OUT must lie outside the data set, got {out.uri} for {source.uri}")
    if source.exists(INFO_FILE):
        raise InputError(f"{source.uri} is packed already: pack the data set that it was made from")


def _begin(out: Store, unfinished: bytes) -> bool:
    """Claims an empty place; True when it holds the beginning of this same pack."""
    names = [name for name in out.names() if name == UNFINISHED_FILE or not is_leaving(name)]
    if not names:
        out.write(UNFINISHED_FILE, unfinished)
        return False
    if UNFINISHED_FILE not in names or INFO_FILE in names:
        raise InputError(f"OUT must be empty, got {out.uri} with {', '.join(names[:5])}")
    if out.read(UNFINISHED_FILE) != unfinished:
        what = "was begun from other data or with other options"
        raise InputError(f"{out.uri} holds an unfinished pack that {what}: delete it, or pack as before")
    return True


def _prepared(
    pool: ThreadPoolExecutor, arguments: tuple[Store, int | None, bool], paths: Iterator[str], ahead: int
) -> Iterator[Packed]:
    """Frames in order, read and shrunk by threads, `ahead` of what is taken at most."""
    source, frame_px, turn = arguments
    pending: deque[Future[Packed]] = deque(
        pool.submit(prepare, source, path, frame_px, turn) for path in islice(paths, ahead)
    )
    try:
        while pending:
            yield pending.popleft().result()
            pending.extend(pool.submit(prepare, source, path, frame_px, turn) for path in islice(paths, 1))
    finally:
        for future in pending:
            future.cancel()


def prepare(source: Store, path: str, frame_px: int | None, turn: bool = True) -> Packed:
    """A frame's file, or a PNG of the frame shrunk to `frame_px` at its longest side. `turn` is that of `decode`.
    Raises DataError."""
    where = f"{source.uri}/{path}"
    content, _ = read_frame(LooseFrames(source), path, where)
    try:
        image, swapped = decode(content, turn=turn)
    except PictureError as error:
        raise DataError([Problem(where, f"frame won't decode: {error}")]) from None
    width, height = image.size
    if frame_px is not None and max(width, height) > frame_px:
        share, buffer = frame_px / max(width, height), io.BytesIO()
        size = max(1, round(width * share)), max(1, round(height * share))
        shrunk = image.resize(size, Image.Resampling.LANCZOS)
        shrunk.save(buffer, "PNG", compress_level=1)  # a seventh of the default's time, a sixth more bytes
        content = buffer.getvalue()
    elif swapped:  # the file stays as it is, so its record does
        width, height = height, width
    return Packed(path, width, height, hashlib.sha256(content).digest(), content)


def _shards(frames: Iterable[Packed], packing: Packing) -> Iterator[bytes]:
    """Parquet files of about `shard_mb`, cut after the row group that reaches it."""
    sink, writer, size = io.BytesIO(), None, 0
    for group in _groups(frames, packing.group_mb * 1e6):
        if writer is None:
            # images are compressed already, and their least and largest would be whole images in the footer
            writer = pq.ParquetWriter(
                sink, _SHARD, compression="none", use_dictionary=False, write_statistics=["path"], store_schema=False
            )
        columns = zip(*group, strict=True)
        writer.write_table(pa.table([pa.array(c, f.type) for c, f in zip(columns, _SHARD, strict=True)], _SHARD))
        size += sum(len(frame.image) for frame in group)
        if size >= packing.shard_mb * 1e6:
            writer.close()
            yield sink.getvalue()
            sink, writer, size = io.BytesIO(), None, 0
    if writer is not None:
        writer.close()
        yield sink.getvalue()


def _groups(frames: Iterable[Packed], most_bytes: float) -> Iterator[list[Packed]]:
    """Frames that are read together: as many as fit, one at least."""
    group: list[Packed] = []
    for frame in frames:
        if group and sum(len(f.image) for f in group) + len(frame.image) > most_bytes:
            yield group
            group = []
        group.append(frame)
    if group:
        yield group


class _Index:
    """The index of the shards so far."""

    def __init__(self) -> None:
        self.frames, self.shards, self.hash = 0, list[int](), hashlib.sha256()
        self.footers: list[tuple[int, str]] = []
        self._sink = io.BytesIO()
        self._writer = pq.ParquetWriter(self._sink, _INDEX, compression="zstd", write_statistics=["path"])
        self._waiting: list[tuple[str, int, int, int, int, int]] = []

    def add(self, file: io.RawIOBase | io.BytesIO, size: int) -> None:
        """Another shard of so many bytes."""
        self.footers.append(footer_of(file, size))
        shard = pq.ParquetFile(file, pre_buffer=False)
        for group in range(shard.num_row_groups):
            rows = shard.read_row_group(group, columns=["path", "width", "height", "sha256"]).to_pydict()
            for row, path in enumerate(rows["path"]):
                self.hash.update(path.encode() + b"\0" + rows["sha256"][row])
                where = (path, len(self.shards), group, row, rows["width"][row], rows["height"][row])
                self._waiting.append(where)
            self.frames += len(rows["path"])
        self.shards.append(size)
        while len(self._waiting) >= _INDEX_ROWS:
            self._write()

    def _write(self) -> None:
        columns = zip(*self._waiting[:_INDEX_ROWS], strict=True)
        self._writer.write_table(pa.table([pa.array(c, f.type) for c, f in zip(columns, _INDEX, strict=True)], _INDEX))
        del self._waiting[:_INDEX_ROWS]

    def close(self) -> bytes:
        """The index's file."""
        while self._waiting:
            self._write()
        self._writer.close()
        return self._sink.getvalue()


def _whole_shards(out: Store, index: _Index) -> int:
    """Takes over the shards that are there from 0 on; how many frames they hold."""
    sizes = dict(out.walk("frames"))
    number = 0
    while (size := sizes.get(shard_path(number).removeprefix("frames/"))) is not None:
        try:
            index.add(Ranges(out, shard_path(number), size), size)
        except (pa.ArrowException, KeyError, OSError) as error:
            what = f"not what was packed: {error}; delete {out.uri} and pack again"
            raise DataError([Problem(f"{out.uri}/{shard_path(number)}", what)]) from None
        number += 1
    return index.frames


def _copy(pool: ThreadPoolExecutor, source: Store, out: Store, paths: list[str], threads: int) -> None:
    """Copies files, some at a time."""
    for start in range(0, len(paths), 16 * threads):
        list(pool.map(lambda path: out.write(path, source.read(path)), paths[start : start + 16 * threads]))
