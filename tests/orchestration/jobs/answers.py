"""What several tests of jobs need: a spec, a token, the answers of a dashboard."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from refsweep.orchestration.spec.read import make_spec
from refsweep.orchestration.spec.schema import SweepSpec

Answer = Callable[[str, str | None], tuple[int, str]]  # of path and Authorization: status and content
OURS = {"python": "3.11.7", "ray": "2.60.0", "torch": "2.15.0", "refsweep": "abc"}
TOKEN = "5f" * 16


def spec_of(**parts: Any) -> SweepSpec:
    objective = {"metric": "loss", "mode": "min"}
    return make_spec({"name": "s", "trainable": "toy", "data": "none", "objective": objective, **parts})


def dashboard(token: str | None, ray: str = "2.60.0", authorizations: list[str | None] | None = None) -> Answer:
    """A cluster that wants a token, or none."""

    def answer(path: str, authorization: str | None) -> tuple[int, str]:
        if authorizations is not None:
            authorizations.append(authorization)
        if token is not None and authorization != f"Bearer {token}":
            return (401, "missing") if authorization is None else (403, "invalid")
        return (200, json.dumps({"version": "4", "ray_version": ray})) if path == "/api/version" else (200, "[]")

    return answer
