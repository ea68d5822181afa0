"""What a checkpoint holds of a training beside weights and history, collected and restored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .randomness import random_state, set_random_state
from .step import TrainStep
from .sums import EpochSums
from .team import Team


def collect(step: TrainStep, sums: EpochSums, team: Team, *, inside_move: bool) -> dict[str, Any]:
    """The state of a training after a batch: tensors, numbers, text and plain containers only. All workers take part;
    the first one's is complete. `inside_move`: gradients are added up for a move of the weights that is to come."""
    first, *others = team.gather(random_state()) or [{}]
    state: dict[str, Any] = {
        "optimiser": step.optimiser.state_dict(),
        "sums": dict(sums.values),
        "seconds": sums.seconds,
        "gradients": _gradients(step.parameters, team) if inside_move else [],
        "gradient_norms": step.clipping.state(),
        "random": first,
        "random_of_others": others,
    }
    if step.average is not None:
        state["average"] = step.average.state()
    if plateau := step.rates.state():
        state["plateau"] = plateau
    return state


def restore(state: Mapping[str, Any], step: TrainStep, sums: EpochSums) -> None:
    """Takes over what `collect` gave, but for the generators of random numbers."""
    step.optimiser.load_state_dict(state["optimiser"])
    sums.restore(state)
    step.clipping.restore(state)
    for parameter, gradient in zip(step.parameters, state["gradients"], strict=False):
        parameter.grad = None if gradient is None else gradient.to(parameter.device)
    if step.average is not None:
        step.average.restore(state["average"])
    step.rates.restore(state.get("plateau", []))


def restore_random(state: Mapping[str, Any], rank: int) -> bool:
    """Gives a worker the random numbers it would have drawn next. False when the state was written by fewer workers
    and has none for it."""
    states = [state["random"], *state["random_of_others"]]
    if rank >= len(states):
        return False
    set_random_state(states[rank])
    return True


def _gradients(parameters: list[Tensor], team: Team) -> list[Tensor | None]:
    """What has been added up for the next move of the weights, by parameter: over the workers, their mean."""
    if team.size == 1:
        return [parameter.grad for parameter in parameters]
    # one worker may have used a parameter that another has not
    own = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    return [team.all_reduce(gradient)() / team.size for gradient in own]
