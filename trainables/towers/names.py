"""Names of weights as people save them, and what wraps them: `state_dict`, `module.`, `_orig_mod.` and the like."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from torch import Tensor

from ...datasets.problems import InputError

WRAPPERS = frozenset(("_orig_mod", "module"))  # of torch.compile and DataParallel; they wrap parts of models too
_WHOLE = frozenset(("_modules", "_parameters", "_buffers"))  # where a model that was saved whole keeps them
# What models are kept under, in files and in modules of training frameworks; of several the first, if all fit alike.
HOLDERS = ("model", "state_dict", "model_state_dict", "net", "network", "model_state", "weights", "params")
SHOWN = 5


def unwrapped(weights: Mapping[str, Tensor], wanted: Collection[str], where: str) -> dict[str, Tensor]:
    """Weights by the names that a model gives them, whatever they were saved under, in any nesting: of all that may be
    the model, that which has most of the names `wanted`.

    Raises InputError where two different weights are left with one name.
    """
    bare: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        short = ".".join(part for part in name.split(".") if part not in WRAPPERS | _WHOLE)
        if bare.setdefault(short, tensor) is not tensor:
            raise InputError(f"{where} holds two weights that may be {short}: give a file of one model")
    candidates = list(_candidates(bare))
    return max(candidates, key=lambda found: sum(name in found for name in wanted))


def _candidates(weights: Mapping[str, Tensor]) -> Iterable[dict[str, Tensor]]:
    """What holders have in them, innermost first, then all of it."""
    for holder in HOLDERS:
        start = f"{holder}."
        inner = {name.removeprefix(start): tensor for name, tensor in weights.items() if name.startswith(start)}
        if inner:
            yield from _candidates(inner)
    yield dict(weights)


def listed(names: Iterable[str]) -> str:
    """The first few of some names, and how many there are where that is more."""
    some = list(names)
    shown = ", ".join(name if len(name) <= 80 else f"{name[:77]}..." for name in some[:SHOWN]) or "none"
    return shown if len(some) <= SHOWN else f"{shown} and {len(some) - SHOWN} more"
