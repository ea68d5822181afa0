"""What MLflow runs when a registered model is loaded: a pyfunc from code, so that nothing is unpickled.

MLflow copies this file into the model and executes the copy. It imports refsweep as it is installed, and where it is
not, from the wheel that the model carries. Before that it compares package, wheel and itself with the digests in
the model's MLmodel.
"""

import hashlib
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd


class PackagedModel(mlflow.pyfunc.PythonModel):
    """A packaged model behind MLflow's interface."""

    def load_context(self, context: Any) -> None:
        """Reads the package and builds the model. Raises ValueError when a file is not what was registered."""
        _check(Path(context.artifacts["package"]).parents[1])
        try:
            import refsweep  # noqa: F401
        except ImportError:
            # unpacked, because Python finds no package without an `__init__.py` inside a zip file
            self._code = tempfile.TemporaryDirectory(prefix="refsweep-")
            with zipfile.ZipFile(next(Path(context.artifacts["wheel"]).glob("*.whl"))) as wheel:
                wheel.extractall(self._code.name)
            sys.path.insert(0, self._code.name)
        from refsweep.datasets.storage.store import Store
        from refsweep.trainables import discovery
        from refsweep.trainables.training.package import Package

        package = Package.read(Store(context.artifacts["package"]))
        self._model = discovery.load(package.trainable).serve(package)

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Answers every row with a row; the trainable defines both sets of columns."""
        return pd.DataFrame(self._model.predict({c: model_input[c].tolist() for c in model_input.columns}))


def _check(folder: Path) -> None:
    """Compares files with the digests in the MLmodel of a folder; a model of an earlier version has none."""
    expected = (mlflow.models.Model.load(str(folder)).metadata or {}).get("refsweep.files", {})
    carried = [path for path in (folder / "artifacts").rglob("*") if path.is_file()]
    found = {path.relative_to(folder).as_posix(): _sha256(path) for path in carried}
    found |= {name: _sha256(folder / name) for name in expected if (folder / name).is_file()}
    wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    if expected and wrong:
        raise ValueError(f"this model is not what was registered: {', '.join(wrong)} changed, missing or added")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


mlflow.models.set_model(PackagedModel())
