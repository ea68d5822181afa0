"""Text-to-image person re-identification that keeps identity apart from clothing."""

from __future__ import annotations

import typing

from ..lazy import export

if typing.TYPE_CHECKING:
    from .config import METRICS, Config
    from .model import T2iReid, build_model
    from .task import Task

__all__ = ["METRICS", "Config", "T2iReid", "Task", "build_model"]

export(__name__, config=["METRICS", "Config"], model=["T2iReid", "build_model"], task=["Task"])
