"""JSON objects that carry a digest of themselves, so that what was edited or damaged is told from what was written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

DIGEST = "digest"


class BrokenSealError(ValueError):
    """Bytes that are not what was written, with why."""


def seal(content: Mapping[str, Any]) -> bytes:
    """An object as JSON with its digest under `digest`; an earlier one is replaced."""
    plain = json.loads(json.dumps({name: value for name, value in content.items() if name != DIGEST}))
    return json.dumps({**plain, DIGEST: digest_of(plain)}, indent=1).encode()


def unseal(raw: bytes) -> dict[str, Any]:
    """The object that `seal` wrote, its digest included. One of an earlier version has none and is taken as it is.

    Raises BrokenSealError for another digest, and for bytes that are no JSON object or nested too deeply to be read.
    """
    try:
        content = json.loads(raw)
        if not isinstance(content, dict):
            raise BrokenSealError("it is no JSON object")
        if DIGEST in content and content[DIGEST] != digest_of(content):
            raise BrokenSealError("its digest is another")
    except RecursionError:
        raise BrokenSealError("it is nested too deeply") from None
    except BrokenSealError:
        raise
    except ValueError as error:
        raise BrokenSealError(f"it is not JSON: {error}") from None
    return content


def digest_of(content: Mapping[str, Any]) -> str:
    """The sha256 of an object's content without its digest, in hex: of JSON with sorted keys and without blanks."""
    plain = {name: value for name, value in content.items() if name != DIGEST}
    return hashlib.sha256(json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
