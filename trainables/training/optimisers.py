"""The optimiser of a training, and groups of parameters by what they are to it: weights, biases, norm layers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import nn

from ...datasets.problems import InputError
from .config import LoopConfig
from .schedules import LrSchedule

Role = Literal["weight", "bias", "norm weight", "norm bias"]
_NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
_SCHEDULE = {field.name for field in dataclasses.fields(LrSchedule)} - {"epochs", "accumulate", "evaluate_every"}


class ByRole(NamedTuple):
    """The trained parameters of a module, each once."""

    weights: list[nn.Parameter]  # all that is none of the others
    biases: list[nn.Parameter]  # outside norm layers
    norms: list[nn.Parameter]  # weights and biases of norm layers


def by_role(module: nn.Module) -> ByRole:
    """The parameters of a module that require a gradient, for groups with factors of their own."""
    roles = _roles(module)
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return ByRole(
        [p for p in trained if roles[id(p)] == "weight"],
        [p for p in trained if roles[id(p)] == "bias"],
        [p for p in trained if roles[id(p)].startswith("norm")],
    )


def make_optimiser(
    config: LoopConfig, groups: Iterable[Mapping[str, Any]], model: nn.Module
) -> tuple[torch.optim.Optimizer, list[LrSchedule]]:
    """The Config's optimiser, and the schedule of each of its groups.

    `groups` are `Task.param_groups()`: `params`, and where they differ from the Config's `lr`, `weight_decay`, and any
    field of the schedule; `lr_factor` and `weight_decay_factor` multiply what holds without them. `model` says which
    parameters are biases and norm layers. Raises InputError when a group's schedule does not fit together, or a group
    says what nobody reads.
    """
    made: list[dict[str, Any]] = []
    schedules = []
    for group in groups:
        schedule = LrSchedule.of(config, **{name: group[name] for name in _SCHEDULE & group.keys()})
        if problems := list(schedule.problems()):
            raise InputError("\n".join(problems))
        parts = _split(config, _with_factors(config, group), model)
        made += parts
        schedules += [schedule] * len(parts)
    optimiser = _optimiser(config, made)
    known = {"params", *optimiser.defaults}
    if unknown := {name for group in made for name in group} - known:
        choices = ", ".join(sorted(known | _SCHEDULE | {"lr_factor", "weight_decay_factor"}))
        raise InputError(f"param_groups must say some of {choices}, got {', '.join(sorted(unknown))}")
    return optimiser, schedules


def _optimiser(config: LoopConfig, groups: Sequence[dict[str, Any]]) -> torch.optim.Optimizer:
    match config.optimiser:
        case "adamw":
            return torch.optim.AdamW(groups, lr=config.lr, weight_decay=config.weight_decay)
        case "adam":
            return torch.optim.Adam(groups, lr=config.lr, weight_decay=config.weight_decay)
        case "sgd":
            return torch.optim.SGD(
                groups,
                lr=config.lr,
                momentum=config.momentum,
                weight_decay=config.weight_decay,
                nesterov=config.nesterov,
            )


def _with_factors(config: LoopConfig, group: Mapping[str, Any]) -> dict[str, Any]:
    """A group as torch takes it: its factors are in its rates, its schedule is left out."""
    own = {name: value for name, value in group.items() if name not in _SCHEDULE}
    for name in ("lr", "weight_decay"):
        factor = own.pop(f"{name}_factor", None)
        if factor is not None:
            own[name] = own.get(name, getattr(config, name)) * factor
    return own


def _split(config: LoopConfig, group: dict[str, Any], model: nn.Module) -> list[dict[str, Any]]:
    """A group by the Config's factors for biases and norm layers; the group itself where they are all 1."""
    lr = {"bias": config.bias_lr_factor, "norm bias": config.bias_lr_factor}
    decay = {
        "bias": config.bias_weight_decay_factor,
        "norm weight": config.norm_weight_decay_factor,
        "norm bias": config.bias_weight_decay_factor * config.norm_weight_decay_factor,
    }
    if {*lr.values(), *decay.values()} == {1.0}:
        return [group]
    roles = _roles(model)
    parts: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter in group["params"]:
        role = roles.get(id(parameter), "weight")
        parts.setdefault((lr.get(role, 1.0), decay.get(role, 1.0)), []).append(parameter)
    return [
        _with_factors(config, {**group, "params": params, "lr_factor": of_lr, "weight_decay_factor": of_decay})
        for (of_lr, of_decay), params in parts.items()
    ]


def _roles(model: nn.Module) -> dict[int, Role]:
    """What each parameter of a model is, by its id; one that several modules share is what the first has it for."""
    roles: dict[int, Role] = {}
    for module in model.modules():
        norm = isinstance(module, _NORMS) or type(module).__name__.endswith("Norm")
        for name, parameter in module.named_parameters(recurse=False):
            bias = name == "bias" or name.endswith("_bias")
            kind: Role = ("norm bias" if bias else "norm weight") if norm else ("bias" if bias else "weight")
            roles.setdefault(id(parameter), kind)
    return roles
