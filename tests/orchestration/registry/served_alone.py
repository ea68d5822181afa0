"""Loads the MLflow model in a folder and lets it answer its example, in a process that can import nothing but Python
itself, the distributions that are named, and the wheel that the model carries.

    python -P served_alone.py FOLDER '["numpy", ...]'        prints the answer, by column
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

from packaging.utils import canonicalize_name

OWNERS = importlib.metadata.packages_distributions()
ALLOWED = set(json.loads(sys.argv[2]))


class Allowed(PathFinder):
    """Finds what is allowed. The rest is not there, as for code that asks whether something is installed."""

    @classmethod
    def find_spec(
        cls, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        top = fullname.partition(".")[0]
        spec = super().find_spec(fullname, path, target)
        if top == "refsweep":
            wheel = spec is not None and any(p.name.startswith("refsweep-") for p in Path(str(spec.origin)).parents)
            return spec if wheel or fullname != top else None
        owners = OWNERS.get(top, ())
        return spec if not owners or any(canonicalize_name(name) in ALLOWED for name in owners) else None


for name in [name for name in sys.modules if name.partition(".")[0] in OWNERS]:
    del sys.modules[name]
sys.meta_path = [
    Allowed if finder is PathFinder else finder for finder in sys.meta_path if "refsweep" not in str(finder)
]

import mlflow  # noqa: E402

model = mlflow.pyfunc.load_model(sys.argv[1])
answer = model.predict(model.input_example)
refused = sorted(
    top
    for top in {m.partition(".")[0] for m in sys.modules} & OWNERS.keys() - {"refsweep"}
    if not any(canonicalize_name(n) in ALLOWED for n in OWNERS[top])
)
assert not refused, f"imported although refused: {refused}"
print(json.dumps({column: answer[column].tolist() for column in answer}))
