"""`Package` under the name by which the files of registered versions import it."""

from .training.package import Package

__all__ = ["Package"]
