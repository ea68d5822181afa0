"""A packed data set: its frames in a few large files, all else as it was.

    packed.json              what this is, see `PackInfo`; written last: without it nothing here counts
    frames/index.parquet     path, shard, group, row, width, height of each frame, sorted by path
    frames/00000.parquet     path, width, height, sha256, image: about 128 MB in row groups of a few MB
    ...                      every other file of the data set, unchanged

`path` is where the frame lay before; `width` and `height` are what it measured then. Labels, tracks and boxes
stay in those pixels even where frames were resized. One frame costs one request: for the part of one shard
that holds its row group. Its frames are compared with their sha256 when a process first reads them, and each with the
index whenever it is read.
"""

from __future__ import annotations

import hashlib
import io
import json
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from ..problems import DataError, InputError, Problem
from ..storage.lru import Lru
from ..storage.retry import UnreachableError
from ..storage.store import Store
from .decode import Size

FORMAT = 1
MAGIC = b"PAR1"  # begins and ends a Parquet file
_AFTER_SLASH = chr(ord("/") + 1)  # sorts after all that follows a slash
INFO_FILE, UNFINISHED_FILE, INDEX_FILE = "packed.json", ".packing.json", "frames/index.parquet"
GROUPS_MIB, INDEX_MIB = 64, 64
T = TypeVar("T")


def shard_path(number: int) -> str:
    """Path of a shard below the data set's root."""
    return f"frames/{number:05d}.parquet"


@dataclass(frozen=True, slots=True, kw_only=True)
class PackInfo:
    """What packed.json holds."""

    layout: str
    frame_px: int | None  # longest side that a frame was shrunk to; None: files are as they were, byte for byte
    frames: int
    source: str  # fingerprint of what was packed
    content: str  # sha256 over paths and images: annotations and this tell packs apart
    shards: list[int]  # bytes of each
    index: int  # bytes of the index
    # bytes and sha256 of the footer of each shard, then of the index's; None in packs of before. Arrow ends the whole
    # process over some damages of a footer, so it is given none that is not sound
    footers: list[tuple[int, str]] | None = None

    def to_json(self) -> bytes:
        """The content of packed.json."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1).encode()

    @classmethod
    def read(cls, store: Store) -> PackInfo:
        """Raises DataError when packed.json is none that this version understands."""
        try:
            content = json.loads(store.read(INFO_FILE))
            if content.pop("format") != FORMAT:
                raise ValueError("another format")
            info = cls(**content)
            if info.footers is not None and len(info.footers) != len(info.shards) + 1:
                raise ValueError("it must know the footer of each file")
            return info
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            what = f"must be written by `data pack`, format {FORMAT}: {error}"
            raise DataError([Problem(f"{store.uri}/{INFO_FILE}", what)]) from None


class Place(NamedTuple):
    """Where a frame lies in the shards."""

    path: str
    shard: int
    group: int
    row: int
    size: Size  # of the frame that was packed


class PackedFrames:
    """The frames of a packed data set. Threads may share it.

    Keeps the row groups that were read last, `groups_mib` of them, and reads none twice at the same time. Raises
    DataError where the pack is incomplete or damaged. `turn` is that of `decode`.
    """

    def __init__(self, store: Store, groups_mib: int = GROUPS_MIB, turn: bool = True) -> None:
        self.store, self.turn = store, turn
        self.info = PackInfo.read(store)
        self._index = self._whole(INDEX_FILE, lambda: self._footer(INDEX_FILE, self.info.index, -1))
        self._starts = self._whole(INDEX_FILE, lambda: _first_paths(self._index))
        self._places: Lru[list[Place]] = Lru(INDEX_MIB << 20, lambda places: 300 * len(places))
        self._footers: Lru[pq.FileMetaData] = Lru(16 << 20, lambda footer: int(footer.serialized_size))
        self._groups: Lru[pa.Table] = Lru(groups_mib << 20, lambda frames: int(frames.nbytes))
        self._verified: set[tuple[int, int]] = set()  # shard and group

    def names(self, folder: str) -> list[str]:
        """Names of the frames, and of the folders that hold some, directly below a folder, sorted."""
        start, names = f"{folder}/" if folder else "", list[str]()
        paths = self._paths_from(start)
        while (path := next(paths, None)) is not None and path.startswith(start):
            name, slash, _ = path[len(start) :].partition("/")
            names.append(name)
            if slash:
                paths = self._paths_from(f"{start}{name}{_AFTER_SLASH}")  # skips what else lies in this folder
        return sorted(names)

    def walk(self, folder: str) -> Iterator[str]:
        """Path below `folder` of every frame in it, sorted."""
        start = f"{folder}/" if folder else ""
        for path in self._paths_from(start):
            if not path.startswith(start):
                return
            yield path[len(start) :]

    def _paths_from(self, start: str) -> Iterator[str]:
        """Paths that do not sort before `start`, sorted."""
        for number in range(max(0, bisect_right(self._starts, start) - 1), len(self._starts)):
            places = self._places_of(number)
            for row in range(bisect_left(places, (start,)), len(places)):
                yield places[row].path

    def read(self, path: str) -> tuple[bytes, Size]:
        """A frame's image file, and the size in pixels that labels are written for. Raises FileNotFoundError."""
        place = self.place(path)
        frames = self._groups.get((place.shard, place.group), lambda: self._read_group(place.shard, place.group))
        row = self._whole(shard_path(place.shard), lambda: frames.slice(place.row, 1).to_pylist())
        if not row or (row[0]["path"], (row[0]["width"], row[0]["height"])) != (path, place.size):
            what = f"not what was packed: {INDEX_FILE} says of {path} what its shard does not"
            raise DataError([Problem(f"{self.store.uri}/{shard_path(place.shard)}", what)])
        return row[0]["image"], place.size

    def place(self, path: str) -> Place:
        """The place of a frame in the shards. Raises FileNotFoundError."""
        number = bisect_right(self._starts, path) - 1
        places = self._places_of(number) if number >= 0 else []
        at = bisect_left(places, (path,))
        if at == len(places) or places[at].path != path:
            raise FileNotFoundError(f"{self.store.uri}/{path} was not packed")
        return places[at]

    def _places_of(self, number: int) -> list[Place]:
        return self._places.get(number, lambda: self._read_places(number))

    def _read_places(self, number: int) -> list[Place]:
        def read() -> list[Place]:
            file = pq.ParquetFile(Ranges(self.store, INDEX_FILE, self.info.index), metadata=self._index)
            table = file.read_row_group(number, use_threads=False)
            rows = table.to_pydict()
            sizes = zip(rows["width"], rows["height"], strict=True)
            columns = (rows[name] for name in ("path", "shard", "group", "row"))
            found = [Place(*row) for row in zip(*columns, sizes, strict=True)]
            if any(column.null_count for column in table.columns):
                raise ValueError("it has gaps")
            if not all(0 <= p.shard < len(self.info.shards) and p.group >= 0 and p.row >= 0 for p in found):
                raise ValueError("it names shards that there are not")
            return found

        return self._whole(INDEX_FILE, read)

    def _read_group(self, shard: int, group: int) -> pa.Table:
        path, size = shard_path(shard), self.info.shards[shard]

        def read() -> pa.Table:
            footer = self._footers.get(shard, lambda: self._footer(path, size, shard))
            file = pq.ParquetFile(_held(self.store, path, size, footer.row_group(group)), metadata=footer)
            frames = file.read_row_group(group, use_threads=False)
            if (shard, group) not in self._verified:
                _verify(frames)
                self._verified.add((shard, group))
            return frames.drop_columns(["sha256"])

        return self._whole(path, read)

    def _footer(self, path: str, size: int, number: int) -> pq.FileMetaData:
        if self.info.footers is None:
            return pq.ParquetFile(Ranges(self.store, path, size), pre_buffer=False).metadata
        length, sha256 = self.info.footers[number]
        content = self.store.read_range(path, size - length, length)
        if hashlib.sha256(content).hexdigest() != sha256:
            raise ValueError("its footer has another sha256 than it had")
        return pq.read_metadata(io.BytesIO(MAGIC + content))

    def _whole(self, path: str, read: Callable[[], T]) -> T:
        try:
            return read()
        except (InputError, UnreachableError):
            raise
        except FileNotFoundError:
            raise DataError([Problem(f"{self.store.uri}/{path}", "part of the packed data set is missing")]) from None
        except Exception as error:  # noqa: BLE001  Arrow's readers raise whatever damaged bytes lead to
            raise DataError([Problem(f"{self.store.uri}/{path}", f"not what was packed: {error}")]) from None


def _verify(frames: pa.Table) -> None:
    """Raises ValueError for a frame that is not the one whose sha256 was stored."""
    for path, sha256, image in zip(frames["path"], frames["sha256"], frames["image"], strict=True):
        if hashlib.sha256(image.as_buffer()).digest() != sha256.as_py():
            raise ValueError(f"{path} has another sha256 than it had")


class Ranges(io.RawIOBase):
    """A file of a store that reads what is asked for and no more. `held` is what was read of it from `start` on."""

    def __init__(self, store: Store, path: str, size: int, start: int = 0, held: bytes = b"") -> None:
        self._store, self._path, self._size, self._at = store, path, size, 0
        self._start, self._held = start, memoryview(held)

    def readable(self) -> bool:
        """Always True."""
        return True

    def seekable(self) -> bool:
        """Always True."""
        return True

    def tell(self) -> int:
        """Bytes from the start."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Moves to a place."""
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def read(self, size: int = -1) -> bytes:
        """The next bytes."""
        length = self._size - self._at if size < 0 else min(size, self._size - self._at)
        from_held = self._at - self._start
        if length <= 0:
            content = b""
        elif from_held >= 0 and from_held + length <= len(self._held):
            content = bytes(self._held[from_held : from_held + length])
        else:
            content = self._store.read_range(self._path, self._at, length)
        self._at += len(content)
        return content


def footer_of(file: io.RawIOBase | io.BytesIO, size: int) -> tuple[int, str]:
    """Bytes and sha256 of a Parquet file's footer: its metadata, their length in four bytes, and MAGIC."""
    file.seek(size - 8)
    length = 8 + int.from_bytes((file.read(8) or b"")[:4], "little")
    file.seek(size - length)
    return length, hashlib.sha256(file.read(length) or b"").hexdigest()


def _held(store: Store, path: str, size: int, group: Any) -> Ranges:
    """A shard of which one row group was read, in one request."""
    columns = [group.column(i) for i in range(group.num_columns)]
    start = min(column.data_page_offset for column in columns)  # packs have no dictionaries
    stop = min(max(column.data_page_offset + column.total_compressed_size for column in columns), size)
    return Ranges(store, path, size, start, store.read_range(path, start, stop - start))


def _first_paths(footer: Any) -> list[str]:
    return [str(footer.row_group(i).column(0).statistics.min) for i in range(footer.num_row_groups)]
