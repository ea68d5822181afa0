"""What the files of a layout offer, so that commands, sweeps and packing need to know none of them.

A layout is how a published data set lies on disk. It has a name, as `refer-kitti`, and its files are named after it:

    layouts/refer_kitti.py          a `Layout`, and the class that reads the data set
    layouts/refer_kitti_check.py    a `Checker`; a short one stands in refer_kitti.py
    layouts/refer_kitti_write.py    functions that write its files, where made data needs them
    layouts/refer_kitti_parse.py    what single files mean, where the reader would get too long
    made/refer_kitti.py             a `Maker`: procedural data in this layout

To add a layout is to add these files: `discovery` finds them. What several layouts use lies in `layouts/shared/`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from .problems import Findings
from .storage.store import Store

Tell = Callable[[str], None]  # takes a line about how the work goes


class Layout(Protocol):
    """What `layouts/<name>.py` defines at module level.

    One whose annotations hold boxes in frames also has `HAS_BOXES = True`: such frames must be stored upright, where
    other pictures are turned as their EXIF says (`frames.decode`).
    """

    @property
    def EVIDENCE(self) -> str:
        """What `holds` looks for, after "<name> has": `a folder expression/`."""

    def holds(self, store: Store) -> bool:
        """Whether a data set of this layout is here, complete or not. Reads names only; raises InputError where the
        store can't be read."""

    def frame_files(self, store: Store, files: Sequence[str]) -> list[str]:
        """Those of the data set's `files` (all of them, sorted) that are frames or pictures, in the same order: packing
        joins them, and the reader must read them through `frames.cache`. None where frames are in video files.

        Raises DataError where the annotations that say so can't be read.
        """


class Checker(Protocol):
    """What `layouts/<name>_check.py` defines, or `layouts/<name>.py`."""

    def check(self, store: Store, *, decode: bool = True) -> Findings:
        """Everything that is wrong with a data set, and counts of what is in it. Without `decode`, as few pictures as
        possible are decoded. Raises nothing about the data.

        A keyword of its own, as `tracks: str`, is an option of `data check`.
        """


class Maker(Protocol):
    """What `made/<name>.py` defines."""

    @property
    def Recipe(self) -> type:
        """A frozen keyword-only dataclass of `recipes.number` and `recipes.folder` fields: what `data make` and `made:`
        take. Its repr names the place of `made:` data, so the class and its fields keep their names."""

    def make(self, out: Store, recipe: Any, tell: Tell) -> Mapping[str, int | str]:
        """Writes the data set to an empty `out`, and `made.json` last. The same recipe gives the same files.

        Returns counts, and in words what else the user should know. Raises InputError where `out` is not empty.
        """
