"""Makes the ledger of a sweep again from what its storage says, when the database is lost.

A study without a spec counts as not there, so the spec is written last: a rebuild that was ended early leaves nothing
that anybody would take for a sweep.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from optuna.exceptions import DuplicatedStudyError
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from ...datasets.problems import InputError
from .database import open_storage
from .quiet import quiet


def rebuild(
    url: str, sweep: str, directions: Sequence[str], trials: Sequence[FrozenTrial], attributes: Mapping[str, Any]
) -> None:
    """Writes a sweep's record. `directions` are `max` or `min`; `attributes` are the study's, with its spec.

    Raises InputError when there is a record of that name.
    """
    opened = open_storage(url, create=True)
    storage = opened.storage
    way = [StudyDirection.MAXIMIZE if d == "max" else StudyDirection.MINIMIZE for d in directions]
    try:
        with quiet():
            try:
                study = storage.create_new_study(way, sweep)
            except DuplicatedStudyError:
                study = storage.get_study_id_from_name(sweep)
                if "spec" in storage.get_study_user_attrs(study):
                    raise InputError(f"{url} has a record of sweep {sweep!r} already") from None
                storage.delete_study(study)
                study = storage.create_new_study(way, sweep)
            for trial in trials:
                storage.create_new_trial(study, template_trial=trial)
            for key, value in [*((k, v) for k, v in attributes.items() if k != "spec"), ("spec", attributes["spec"])]:
                storage.set_study_user_attr(study, key, value)
    finally:
        opened.close()
