"""What MLflow runs when a registered model is loaded: a pyfunc from code, so that nothing is unpickled.

MLflow copies this file into the model and executes the copy. It imports refsweep as it is installed, and where it is
not, from the wheel that the model carries.
"""

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
        """Reads the package and builds the model."""
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


mlflow.models.set_model(PackagedModel())
