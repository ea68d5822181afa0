"""How a registered model is named: MODEL (its champion), MODEL@ALIAS, MODEL/VERSION, each also after `models:/`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ...datasets.problems import InputError

CHAMPION = "champion"
_FORM = re.compile(r"(?:models:/)?(?P<model>[^/@:]+)(?:@(?P<alias>[^/@:]+)|/(?P<version>[0-9]+))?")


class UnknownModelError(InputError):
    """A name that stands for no registered version."""


@dataclass(frozen=True, slots=True)
class ModelName:
    """A name, taken apart: a version, or else an alias."""

    model: str
    version: str | None = None
    alias: str = CHAMPION

    @classmethod
    def parse(cls, text: str) -> ModelName:
        """Raises InputError for a text of another form."""
        match = _FORM.fullmatch(text)
        if match is None:
            raise UnknownModelError(f"a model is named MODEL, MODEL@ALIAS or MODEL/VERSION, got {text!r}")
        version = str(int(match["version"])) if match["version"] else None
        return cls(match["model"], version, match["alias"] or CHAMPION)


def is_place(text: str) -> bool:
    """Whether a text can only be the folder or prefix of a package: an absolute or dotted path, `s3://`, several
    parts, or a second part that is no version."""
    if text.startswith("models:/"):
        return False
    return text.startswith(("/", ".", "~")) or "://" in text or ("/" in text and _FORM.fullmatch(text) is None)
