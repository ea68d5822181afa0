"""Checks a data set of any layout that is known here."""

from __future__ import annotations

from ..problems import Findings, InputError, as_problems
from ..storage.store import Store
from . import cuhk_pedes, orbench
from . import refer_kitti_check as check_refer_kitti
from .refer_kitti import LABELS_FILE

LAYOUTS = ("refer-kitti", "cuhk-pedes", "orbench")


def recognise(store: Store) -> str:
    """Which of LAYOUTS the data is in, by what is there; ICFG-PEDES and RSTPReid go with cuhk-pedes.

    Raises InputError where it is none of them.
    """
    if store.exists("splits.json") or {"expression", "KITTI", LABELS_FILE} & set(store.names()):
        return "refer-kitti"
    if cuhk_pedes.find_annotations(store) is not None:
        return "cuhk-pedes"
    if orbench.is_orbench(store):
        return "orbench"
    raise InputError(
        "no data set of a known layout here: refer-kitti has a folder expression/, "
        f"cuhk-pedes one of the files {', '.join(cuhk_pedes.ANNOTATIONS)}, "
        f"orbench folders {', '.join(orbench.IMAGE_MODALITIES)}, below train/, val/, test/ or at once"
    )


def check(store: Store, tracks: str = "tracks", *, decode: bool = True) -> tuple[str | None, Findings]:
    """(layout, everything that is wrong); `tracks` is Refer-KITTI's folder of tracker output."""
    try:
        layout = recognise(store)
    except InputError as error:
        return None, Findings(as_problems(error, store.uri))
    if layout == "refer-kitti":
        return layout, check_refer_kitti.check(store, tracks, decode=decode)
    people = cuhk_pedes.check if layout == "cuhk-pedes" else orbench.check
    return layout, people(store, decode)
