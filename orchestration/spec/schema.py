"""The sweep's spec: the YAML a person writes, all its errors at once, in plain words."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)

from ...datasets.problems import InputError
from ...trainables import coercion, discovery
from ..search.pruning import PrunerName, Pruning
from ..search.sampling import SamplerName, grid_size
from .locations import check_url

# What may change when a sweep is run again under its name.
MAY_CHANGE = ("search.trials", "budget", "resources", "retry", "stream")


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Objective(_Part):
    """A metric to search for."""

    metric: str
    mode: Literal["min", "max"]


class Search(_Part):
    """How many trials, who proposes them, who ends them early."""

    trials: int = Field(64, ge=1)
    sampler: SamplerName = "tpe"
    pruner: PrunerName = "asha"
    seed: int = Field(0, ge=0)
    startup: int | None = Field(None, ge=0)  # random trials before a model; population of nsga2
    min_epochs: int = Field(1, ge=1)  # before a trial may be pruned
    eta: int = Field(3, ge=2)  # one of so many goes on at a rung
    grid: dict[str, list[Any]] | None = None  # of the grid sampler: every parameter's values

    @model_validator(mode="after")
    def _grid_belongs_to_its_sampler(self) -> Search:
        if (self.sampler == "grid") != (self.grid is not None):
            raise ValueError("grid must be given with sampler grid, and with no other")
        if self.grid is not None and (not self.grid or not grid_size(self.grid)):
            raise ValueError("grid must hold at least one value of every parameter")
        return self


class Resources(_Part):
    """What a trial gets."""

    workers: int | tuple[int, int] = 1  # of a trial; [least, most]: as many as there is room for
    gpus_per_worker: float | None = Field(None, ge=0)  # null: 1 where the cluster has GPUs, else 0
    cpus_per_worker: int = Field(1, ge=1)
    trials_per_gpu: int = Field(1, ge=1)
    max_concurrent: int | Literal["auto"] = "auto"
    wait_s: float = Field(0.0, ge=0)  # for nodes to come when not one trial fits

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
    """When to stop: no trial is asked for, live ones write a checkpoint and end. All attempts count alike, finished,
    failed, repeated and running ones."""

    gpu_hours: float | None = Field(None, gt=0)
    cpu_hours: float | None = Field(None, gt=0)  # for clusters without a GPU
    wall_hours: float | None = Field(None, gt=0)  # while a driver runs, over all resumes


class Retry(_Part):
    """What happens after failures."""

    max_retries: int = Field(3, ge=0)
    halt_after_same_error: int = Field(3, ge=1)  # so many trials in a row end at the same place in the code
    hang_s: float = Field(1800.0, gt=0)  # a trial silent for longer is killed and taken up again


class SweepSpec(_Part):
    """One sweep, wholly."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,99}$")
    trainable: str
    data: str
    storage: str = "./refsweep-out"
    ledger: str | None = None  # null: <storage>/ledger.db
    tracking: str | None = None  # null: sqlite:///<storage>/mlflow.db; none: no MLflow
    objective: Annotated[
        Annotated[Objective, Tag("one")] | Annotated[list[Objective], Tag("several")],
        Discriminator(lambda value: "several" if isinstance(value, list) else "one"),
    ]
    search: Search = Search()
    stream: Literal["auto", "threads", "ray"] = "auto"
    fixed: dict[str, Any] = {}
    resources: Resources = Resources()
    budget: Budget = Budget()
    retry: Retry = Retry()

    @model_validator(mode="after")
    def _fits_together(self) -> SweepSpec:
        wrong = [problem for check in (_about_trainable, _about_objectives, _about_places) for problem in check(self)]
        if wrong:
            raise ValueError("\n".join(wrong))
        return self

    @property
    def objectives(self) -> list[Objective]:
        """One or more."""
        return list(self.objective) if isinstance(self.objective, list) else [self.objective]

    @property
    def ledger_url(self) -> str:
        """Where the ledger is."""
        return self.ledger or f"sqlite:///{Path(self.storage).expanduser().absolute()}/ledger.db"

    @property
    def tracking_uri(self) -> str | None:
        """Where MLflow is; None for nowhere."""
        if self.tracking == "none":
            return None
        return self.tracking or f"sqlite:///{Path(self.storage).expanduser().absolute()}/mlflow.db"

    @property
    def epochs(self) -> int:
        """Of each trial."""
        return int(
            self.fixed.get("epochs", discovery.load(self.trainable).Config.__dataclass_fields__["epochs"].default)
        )

    @property
    def pruning(self) -> Pruning:
        """How trials end early."""
        s = self.search
        better = 1 if self.objectives[0].mode == "max" else -1
        return Pruning(kind=s.pruner, min_epochs=s.min_epochs, eta=s.eta, max_epochs=self.epochs, better=better)

    @property
    def planned_trials(self) -> int:
        """How many trials to ask for."""
        return min(self.search.trials, grid_size(self.search.grid)) if self.search.grid else self.search.trials

    def as_json(self) -> dict[str, Any]:
        """Plain values of every field."""
        return dict(json.loads(self.model_dump_json()))


def _about_trainable(spec: SweepSpec) -> list[str]:
    try:
        module = discovery.load(spec.trainable)
        coercion.make_config(module.Config, spec.fixed)
    except InputError as error:
        return [
            f"trainable: {error}" if "trainable must" in str(error) else f"fixed: {line}"
            for line in str(error).splitlines()
        ]
    unknown = [o.metric for o in spec.objectives if o.metric not in module.METRICS]
    return [f"objective: metric must be one of {', '.join(module.METRICS)}, got {m!r}" for m in unknown]


def _about_objectives(spec: SweepSpec) -> list[str]:
    wrong = []
    if not spec.objectives:
        wrong.append("objective: must name at least one metric")
    if len(spec.objectives) > 1:
        if spec.search.pruner != "none":
            wrong.append(f"search.pruner: must be none with several objectives, got {spec.search.pruner}")
        if spec.search.sampler == "cmaes":
            wrong.append(
                "search.sampler: cmaes takes one objective; with several use tpe, nsga2, gp, qmc, random or grid"
            )
    return wrong


def _about_places(spec: SweepSpec) -> list[str]:
    wrong = []
    if spec.storage.startswith("s3://"):
        wrong += [f"{n}: must be given with s3:// storage" for n in ("ledger", "tracking") if getattr(spec, n) is None]
    if spec.ledger is not None:
        try:
            check_url(spec.ledger)
        except InputError as error:
            wrong.append(f"ledger: {str(error).removeprefix('ledger ')}")
    if spec.tracking is not None and "@" in spec.tracking.partition("://")[2].partition("/")[0]:
        wrong.append(
            "tracking: must hold no user or password: use MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        )
    if spec.data == "none" and spec.trainable in discovery.names():
        try:
            discovery.load(spec.trainable).open_data(None)
        except InputError as error:
            wrong.append(f"data: {error}")
    return wrong


def read_spec(path: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The fields of a YAML file, with `a.b=value` overrides, not yet checked. Raises InputError."""
    try:
        content = yaml.safe_load(Path(path).read_text())
    except FileNotFoundError:
        raise InputError(f"no spec at {path}") from None
    except (yaml.YAMLError, UnicodeDecodeError, IsADirectoryError) as error:
        raise InputError(f"{path} is not YAML: {error}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path} must hold fields and their values")
    return override(content, overrides)


def override(content: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A copy with fields replaced; each override is `path=value`, the value in YAML."""
    made: dict[str, Any] = json.loads(json.dumps(content, default=str))
    for text in overrides:
        path, equals, value = text.partition("=")
        if not equals or not path:
            raise InputError(f"--set must be FIELD=VALUE, got {text!r}")
        at = made
        *parents, last = path.split(".")
        for name in parents:
            at = at.setdefault(name, {})
            if not isinstance(at, dict):
                raise InputError(f"--set {path}: {name} holds no fields")
        try:
            at[last] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise InputError(f"--set {text!r}: {error}") from None
    return made


def make_spec(content: Mapping[str, Any], where: str = "spec") -> SweepSpec:
    """A spec from plain values. Raises InputError with every problem."""
    content = _floats(content)
    try:
        return SweepSpec.model_validate(content)
    except ValidationError as error:
        lines = [line for e in error.errors() for line in _say(dict(e))]
        lines += _also(content, error)
        raise InputError("\n".join([f"{where}:", *(f"  {line}" for line in lines)])) from None


def _also(content: Mapping[str, Any], error: ValidationError) -> list[str]:
    """What is wrong with fields together, although some are wrong by themselves: those take their defaults here."""
    wrong = [e["loc"] for e in error.errors() if e["loc"]]
    left = json.loads(json.dumps(content, default=str))
    for place in wrong:
        at = left
        for part in place[:-1]:
            at = at.get(part, {}) if isinstance(at, dict) else {}
        if isinstance(at, dict):
            at.pop(place[-1], None)
    try:
        SweepSpec.model_validate(left)
    except ValidationError as more:
        said = [line for e in more.errors() if not e["loc"] for line in _say(dict(e))] if wrong else []
        paths = tuple(".".join(map(str, place)) for place in wrong)
        return [line for line in said if not line.startswith(paths)]
    return []


def _floats(content: Mapping[str, Any]) -> dict[str, Any]:
    """Whole numbers where a fraction is allowed: YAML writes 1 for 1.0."""
    made = dict(content)
    for part, model in (("resources", Resources), ("budget", Budget), ("retry", Retry)):
        if isinstance(made.get(part), dict):
            wants = {
                n for n, f in model.model_fields.items() if f.annotation is float or float in get_args(f.annotation)
            }
            made[part] = {k: float(v) if k in wants and type(v) is int else v for k, v in made[part].items()}
    return made


def _say(error: dict[str, Any]) -> list[str]:
    path = ".".join(str(p) for p in error["loc"] if p not in ("one", "several"))
    kind, value = error["type"], error.get("input")
    if kind == "extra_forbidden":
        return [f"{path}: unknown key"]
    if kind == "missing":
        return [f"{path}: must be given"]
    if kind == "literal_error":
        return [f"{path}: must be one of {error['ctx']['expected']}, got {value!r}"]
    message = error["msg"].removeprefix("Value error, ")
    if kind == "value_error":
        return [f"{path}: {line}" if path else line for line in message.splitlines()]
    if kind == "string_pattern_mismatch":
        return [f"{path}: must be lower-case letters, digits, dots, dashes and underscores, got {value!r}"]
    return [f"{path}: {message[0].lower()}{message[1:]}, got {value!r}"]


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Fields in which two specs differ and may not, each as `path: old -> new`."""
    found = []
    for key in sorted(old.keys() | new.keys()):
        path = f"{prefix}{key}"
        if path in MAY_CHANGE:
            continue
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict) and key != "fixed":
            found += differences(a, b, f"{path}.")
        elif a != b:
            found.append(f"{path}: {json.dumps(a)} -> {json.dumps(b)}")
    return found
