"""Multi-modal person re-identification: CLIP with MER and SDM (PRCV 2025, ORBench)."""

from __future__ import annotations

import typing

from ..lazy import export

if typing.TYPE_CHECKING:
    from .config import Config
    from .evaluate import METRICS
    from .model import MmReid, build_model
    from .task import Task

__all__ = ["METRICS", "Config", "MmReid", "Task", "build_model"]

export(__name__, config=["Config"], evaluate=["METRICS"], model=["MmReid", "build_model"], task=["Task"])
