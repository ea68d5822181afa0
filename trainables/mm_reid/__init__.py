"""Multi-modal person re-identification: CLIP with MER and SDM (PRCV 2025, ORBench)."""

from __future__ import annotations

import typing

from ..lazy import export

if typing.TYPE_CHECKING:
    from .config import METRICS, Config
    from .model import MmReid, build_model
    from .task import Task

__all__ = ["METRICS", "Config", "MmReid", "Task", "build_model"]

export(__name__, config=["METRICS", "Config"], model=["MmReid", "build_model"], task=["Task"])
