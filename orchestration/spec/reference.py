"""The reference of the spec file, docs/spec.md, from the schema: `python -m refsweep.orchestration.spec.reference`."""

from __future__ import annotations

import sys
import types
import typing
from typing import Any

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from .schema import Budget, Objective, Resources, Retry, Search, SweepSpec

PARTS: tuple[tuple[str, type[BaseModel]], ...] = (
    ("objective", Objective),
    ("search", Search),
    ("resources", Resources),
    ("budget", Budget),
    ("retry", Retry),
)
HEAD = """# The spec file

A sweep is one YAML file. `refsweep sweep run FILE` checks all of it first and reports all errors in the file together,
with exit code 2. `--set FIELD=VALUE` replaces a field for one run: `--set search.trials=8`.

A sweep that exists may be run again with other values of `search.trials`, `budget`, `resources`, `retry` and `stream`.
Any other difference is shown and refused.

```yaml
name: my-sweep
trainable: MODEL
data: /data/refer-kitti
storage: s3://sweeps
ledger: postgresql://db/sweeps
tracking: http://mlflow:5000
objective: {metric: hota, mode: max}
search: {trials: 64, sampler: tpe, pruner: asha, seed: 0}
fixed: {epochs: 30}
resources: {gpus_per_worker: 1, cpus_per_worker: 4}
budget: {gpu_hours: 200}
```

This page is generated from the schema: `python -m refsweep.orchestration.spec.reference > docs/spec.md`.
"""


def reference() -> str:
    """Every field of the spec file with its type, default and meaning, as Markdown."""
    sections = [HEAD, "## Fields\n\n" + _table("", SweepSpec)]
    sections += [f"## `{name}`\n\n{_line(part.__doc__)}\n\n{_table(name + '.', part)}" for name, part in PARTS]
    return "\n".join(sections)


def _table(prefix: str, model: type[BaseModel]) -> str:
    rows = ["| field | value | default | meaning |", "| --- | --- | --- | --- |"]
    for name, field in model.model_fields.items():
        rows.append(f"| `{prefix}{name}` | {_values(field)} | {_default(field)} | {_line(field.description)} |")
    return "\n".join(rows) + "\n"


def _line(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|")


def _values(field: FieldInfo) -> str:
    signs = (("ge", ">="), ("gt", ">"), ("le", "<="))
    limits = "".join(
        f" {sign} {getattr(m, name):g}" for name, sign in signs for m in field.metadata if hasattr(m, name)
    )
    words = _type(field.annotation)
    return f"{words.removesuffix(' or null')}{limits} or null" if words.endswith(" or null") else words + limits


def _type(hint: Any) -> str:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return _type(args[0])
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_type(a) for a in args)
    if origin is typing.Literal:
        return ", ".join(f"`{a}`" for a in args)
    if origin is tuple:
        return "[least, most]"
    if origin is list:
        return f"list of {_type(args[0])}"
    if origin is dict:
        return "mapping"
    names = {int: "whole number", float: "number", str: "text", bool: "true or false", type(None): "null"}
    if isinstance(hint, type) and issubclass(hint, BaseModel):
        return "see below"
    return names.get(hint, str(hint))


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.default
    if isinstance(value, BaseModel):
        return ""
    text = yaml.safe_dump(value, default_flow_style=True).strip().removesuffix("...").strip()
    return f"`{text}`"


if __name__ == "__main__":
    sys.stdout.write(reference())
