"""A trainable of no cost with a known optimum, for testing and measuring the machinery."""

from __future__ import annotations

import typing

from ..lazy import export

if typing.TYPE_CHECKING:
    from .config import METRICS, Config
    from .task import Task

__all__ = ["METRICS", "Config", "Task"]

export(__name__, config=["METRICS", "Config"], task=["Task"])
