"""iKUN on Refer-KITTI: referring multi-object tracking (arXiv 2312.16245)."""

from __future__ import annotations

import typing

from ..lazy import export

if typing.TYPE_CHECKING:
    from .config import METRICS, Config
    from .model import Ikun, build_model
    from .reference import from_reference, import_checkpoint
    from .task import Task

__all__ = ["METRICS", "Config", "Ikun", "Task", "build_model", "from_reference", "import_checkpoint"]

export(
    __name__,
    config=["METRICS", "Config"],
    model=["Ikun", "build_model"],
    reference=["from_reference", "import_checkpoint"],
    task=["Task"],
)
