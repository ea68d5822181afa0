"""The sweep's spec as types: every field of the YAML file that a person writes. Knows no sampler and no model.

`read` makes a SweepSpec from a file, `check` and `search.check` say what its names and values must be here and now.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, field_validator

from ...datasets.problems import InputError
from .locations import check_url, folder_path
from .same_place import same_place


class _Part(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class Objective(_Part):
    """What the search optimises. A list of objectives searches for their Pareto front."""

    metric: str
    """One of the metrics that the trainable's evaluation gives."""
    mode: Literal["min", "max"]
    """Whether smaller or larger is better."""


class Search(_Part):
    """How many trials there are, what proposes their parameters and what ends them early."""

    trials: int = Field(64, ge=1)
    """Trials to run. A grid has no more than its cells."""
    sampler: str = "tpe"
    """Proposes parameters: tpe (multivariate, grouped), random, qmc, cmaes, gp, nsga2 or grid."""
    pruner: str = "asha"
    """Ends hopeless trials early: asha, hyperband, median or none. It must be none with several objectives."""
    seed: int = Field(0, ge=0, le=2**31)
    """Seed of the sampler and of every training. Parameters follow from it, the trial's number and earlier results."""
    startup: int | None = Field(None, ge=0)
    """Random trials before the sampler uses a model; the population of nsga2. Null is the sampler's own choice."""
    min_epochs: int = Field(1, ge=1)
    """No trial is pruned before it has trained for this many epochs: the first rung."""
    eta: int = Field(3, ge=2)
    """Of this many trials at a rung, one continues."""
    grid: dict[str, list[Any]] | None = None
    """The values of every parameter, for sampler grid and for no other."""


class Resources(_Part):
    """What a trial may use while it runs."""

    workers: int | tuple[int, int] = 1
    """Workers that train a trial together. [least, most] takes as many as there is room for."""
    gpus_per_worker: float | None = Field(None, ge=0)
    """Null is 1 where the cluster has GPUs, else 0."""
    cpus_per_worker: int = Field(1, ge=1)
    """CPUs of each worker, its data threads included."""
    trials_per_gpu: int = Field(1, ge=1)
    """Trials that share a GPU."""
    max_concurrent: int | Literal["auto"] = "auto"
    """Trials that run at the same time, at most. auto: as many as there is room for."""
    wait_s: float = Field(0.0, ge=0)
    """Seconds to wait for nodes when not even one trial fits. After that the sweep is refused."""

    @field_validator("max_concurrent", mode="before")
    @classmethod
    def _at_least_one(cls, value: Any) -> Any:
        if value != "auto" and (type(value) is not int or value < 1):
            raise ValueError(f"must be >= 1 or auto, got {value!r}")
        return value

    @field_validator("workers", mode="before")
    @classmethod
    def _a_number_or_a_range(cls, value: Any) -> Any:
        both = tuple(value) if isinstance(value, list | tuple) and len(value) == 2 else (value, value)
        if any(type(n) is not int for n in both) or not 1 <= both[0] <= both[1]:
            raise ValueError(f"must be a number >= 1, or [least, most] with 1 <= least <= most, got {value!r}")
        return both[0] if both[0] == both[1] else both

    @property
    def worker_range(self) -> tuple[int, int]:
        """At least, at most."""
        return self.workers if isinstance(self.workers, tuple) else (self.workers, self.workers)


class Budget(_Part):
    """When to stop: no new trial starts, live trials write a checkpoint and end. Every attempt counts, whether it
    finished, failed, was repeated or is running."""

    gpu_hours: float | None = Field(None, gt=0)
    """GPU-hours of all trials together."""
    cpu_hours: float | None = Field(None, gt=0)
    """CPU-hours of all trials together, for clusters without GPUs."""
    wall_hours: float | None = Field(None, gt=0)
    """Hours in which a driver ran, over all resumes."""


class Retry(_Part):
    """What happens after failures."""

    max_retries: int = Field(3, ge=0)
    """How often a trial that raised an exception is tried again from its checkpoint before it counts as failed."""
    halt_after_same_error: int = Field(3, ge=1)
    """The sweep halts when this many trials in a row end with the same traceback."""
    hang_s: float = Field(1800.0, gt=0)
    """A trial that reports nothing for this many seconds is killed and continued from its checkpoint."""


class SweepSpec(_Part):
    """A sweep: what is trained on which data, what is searched, and where everything is kept."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,99}$")
    """The sweep's name. Trial 3 is `<name>/3` in ledger, checkpoints, MLflow and logs."""
    trainable: str
    """The model: a folder of `trainables/`, with its search space in `search_spaces/`."""
    data: str
    """A folder, s3://bucket/prefix, `made:LAYOUT?FIELD=NUMBER` for procedural data, or none."""
    storage: str = "./refsweep-out"
    """A folder or s3://bucket/prefix for checkpoints."""
    ledger: str | None = None
    """sqlite:///FILE or postgresql://HOST/DB. Null is `<storage>/ledger.db`. Passwords go into PGPASSFILE."""
    tracking: str | None = None
    """MLflow's URI. Null is MLFLOW_TRACKING_URI at the first start, else `sqlite:///<storage>/mlflow.db`; none is no
    MLflow."""
    objective: Annotated[
        Annotated[Objective, Tag("one")] | Annotated[list[Objective], Tag("several")],
        Discriminator(lambda value: "several" if isinstance(value, list) else "one"),
    ]
    """What is optimised: one objective, or a list."""
    search: Search = Search()
    """How it is searched."""
    stream: Literal["auto", "threads", "ray"] = "auto"
    """What reads the data: threads in the trial's process, or Ray Data. auto is threads."""
    fixed: dict[str, Any] = {}
    """Fields of the trainable's Config that keep a value. The search space gives the others."""
    resources: Resources = Resources()
    """What a trial may use."""
    budget: Budget = Budget()
    """When to stop."""
    retry: Retry = Retry()
    """What happens after failures."""

    @property
    def objectives(self) -> list[Objective]:
        """One or more."""
        return list(self.objective) if isinstance(self.objective, list) else [self.objective]

    @property
    def ledger_url(self) -> str:
        """Where the ledger is."""
        return self.ledger or f"sqlite:///{folder_path(self.storage)}/ledger.db"

    @property
    def tracking_uri(self) -> str | None:
        """Where MLflow is; None for nowhere."""
        if self.tracking == "none":
            return None
        return self.tracking or f"sqlite:///{folder_path(self.storage)}/mlflow.db"

    @property
    def planned_trials(self) -> int:
        """How many trials to ask for: a grid has no more than its cells."""
        return min(self.search.trials, grid_size(self.search.grid)) if self.search.grid else self.search.trials

    def as_json(self) -> dict[str, Any]:
        """Plain values of every field."""
        return dict(json.loads(self.model_dump_json()))


def grid_size(grid: Mapping[str, Sequence[Any]]) -> int:
    """How many cells a grid has."""
    return math.prod(len(values) for values in grid.values())


def location_problems(spec: SweepSpec) -> list[str]:
    """What is wrong with where a sweep keeps things, each `path: problem`."""
    problems = []
    if spec.storage.startswith("s3://"):
        problems += [
            f"{n}: must be given with s3:// storage"
            for n in ("ledger", "tracking")
            if getattr(spec, n) is None and not (n == "tracking" and os.environ.get("MLFLOW_TRACKING_URI"))
        ]
    if spec.ledger is not None:
        try:
            check_url(spec.ledger)
        except InputError as error:
            problems.append(f"ledger: {str(error).removeprefix('ledger ')}")
    with contextlib.suppress(InputError):  # of a folder that can't be: the check of places says so
        if spec.tracking_uri is not None and same_place(spec.ledger_url, spec.tracking_uri):
            problems.append(f"tracking: must be another database than the ledger, got {spec.tracking_uri} for both")
    return problems
