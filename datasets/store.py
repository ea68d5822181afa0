"""`Store` under the name by which the files of registered versions import it."""

from .storage.store import Store

__all__ = ["Store"]
