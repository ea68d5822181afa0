"""Weights of Hugging Face models: from a folder, an s3:// prefix or a hub id; safetensors only, no remote code."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from ...datasets.problems import InputError
from ...datasets.storage.store import Store
from .names import HOLDERS, WRAPPERS, listed

M = TypeVar("M")
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_WANTED = (".json", ".safetensors", ".txt")


@contextmanager
def at(uri: str) -> Iterator[str]:
    """What `from_pretrained` takes: a folder, the copy of an s3:// prefix while open, a hub id. Raises InputError."""
    if uri.startswith("s3://"):
        store = Store(uri)
        names = [name for name in store.names() if name.endswith(_WANTED)]
        if "config.json" not in names:
            raise InputError(f"no weights at {uri}: config.json is missing")
        with tempfile.TemporaryDirectory() as folder:
            for name in names:
                (Path(folder) / name).write_bytes(store.read(name))
            yield folder
    elif (folder_here := Path(uri).expanduser()).is_dir():
        yield str(folder_here)
    elif _HUB_ID.fullmatch(uri) and not uri.startswith("."):
        yield uri
    else:
        raise InputError(f"weights must be a folder, an s3:// prefix or a hub id, got {uri!r}")


def load(make: Callable[..., M], uri: str, **options: Any) -> M:
    """`make(uri)`, a `from_pretrained`. Raises InputError when there is nothing, or nothing that fits."""
    from huggingface_hub.errors import HfHubHTTPError
    from safetensors import SafetensorError
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with at(uri) as source:
            return make(source, **options)
    except InputError:
        raise
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError, HfHubHTTPError) as error:
        raise InputError(f"weights at {uri} can't be read: {error}") from None
    finally:
        logging.set_verbosity(before)


def load_model(kind: Any, uri: str, **options: Any) -> Any:
    """A Hugging Face model with all of its weights, whatever they were saved under (`towers.names`). Raises InputError
    when some are missing, which `from_pretrained` would leave random."""
    holders = "|".join((*HOLDERS, *WRAPPERS))
    renamed = {rf"^(?:(?:{holders})\.)+": "", r"\._orig_mod\.": ".", r"\.module\.": "."}
    model, found = load(
        kind.from_pretrained, uri, use_safetensors=True, output_loading_info=True, key_mapping=renamed, **options
    )
    missing = sorted(found["missing_keys"])
    if missing:
        has = listed(sorted(found["unexpected_keys"]))
        raise InputError(f"weights at {uri} don't fit: missing {listed(missing)}; found {has}")
    return model


def check_sizes(uri: str, config: Any, wanted: dict[str, int]) -> None:
    """Raises InputError when a model's configuration has other sizes than those wanted."""
    sizes = {name: getattr(config, name, None) for name in wanted}
    if sizes != wanted:
        raise InputError(f"weights at {uri} have other sizes: must be {wanted}, got {sizes}")
