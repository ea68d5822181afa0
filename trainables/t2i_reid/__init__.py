"""Text-to-image person re-identification that keeps identity apart from clothing."""

from __future__ import annotations

import typing

from ..lazy import export

if typing.TYPE_CHECKING:
    from .config import Config
    from .evaluate import METRICS
    from .model import T2iReid, build_model
    from .task import Task

__all__ = ["METRICS", "Config", "T2iReid", "Task", "build_model"]

export(__name__, config=["Config"], evaluate=["METRICS"], model=["T2iReid", "build_model"], task=["Task"])
