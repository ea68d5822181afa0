"""Which parameters of a model train."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn


def trained(module: nn.Module) -> list[nn.Parameter]:
    """Parameters that are not frozen."""
    return [p for p in module.parameters() if p.requires_grad]


def trained_but(module: nn.Module, *parts: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    """Parameters of a module that are not frozen and in none of some parts."""
    apart = {id(p) for part in parts for p in part}
    return [p for p in trained(module) if id(p) not in apart]
