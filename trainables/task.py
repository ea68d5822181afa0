"""`load` under the name by which the files of registered versions import it."""

from .discovery import load

__all__ = ["load"]
