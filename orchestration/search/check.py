"""What a spec says of its search, checked: sampler, pruner, grid, objectives, and whether the space gives a Config."""

from __future__ import annotations

from ...datasets.problems import InputError
from ..spec.schema import SweepSpec, grid_size
from .spaces import check_space, search_space

SAMPLERS = ("tpe", "random", "qmc", "cmaes", "gp", "nsga2", "grid")
PRUNERS = ("asha", "hyperband", "median", "none")


def problems(spec: SweepSpec) -> list[str]:
    """All that is wrong, each `path: problem`."""
    wrong = []
    search = spec.search
    if search.sampler not in SAMPLERS:
        wrong.append(f"search.sampler: must be one of {SAMPLERS}, got {search.sampler!r}")
    if search.pruner not in PRUNERS:
        wrong.append(f"search.pruner: must be one of {PRUNERS}, got {search.pruner!r}")
    if (search.sampler == "grid") != (search.grid is not None):
        wrong.append("search: grid must be given with sampler grid, and with no other")
    elif search.grid is not None and (not search.grid or not grid_size(search.grid)):
        wrong.append("search: grid must hold at least one value of every parameter")
    if not spec.objectives:
        wrong.append("objective: must name at least one metric")
    try:
        check_space(spec, search_space(spec.trainable).space)
    except InputError as error:
        wrong += str(error).splitlines()
    return wrong
