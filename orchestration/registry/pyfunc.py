"""What MLflow runs when a registered model is loaded: a pyfunc from code, so that nothing is unpickled.

MLflow copies this file into the model and executes it there; it imports the package that made the model, and
where that is not installed, the wheel that travels with the model.
"""

import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd


class Served(mlflow.pyfunc.PythonModel):
    """A packaged model behind MLflow's interface."""

    def load_context(self, context: Any) -> None:
        """Reads the package."""
        try:
            import refsweep  # noqa: F401
        except ImportError:
            # unpacked: Python finds no folder without an `__init__.py` inside a zip
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
        """A row in, a row out; the columns are the trainable's."""
        return pd.DataFrame(self._model.predict({c: model_input[c].tolist() for c in model_input.columns}))


mlflow.models.set_model(Served())
