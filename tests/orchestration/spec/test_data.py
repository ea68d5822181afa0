"""Where a sweep's data is: as it is, or made below the storage in a folder named after the recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from refsweep.datasets.fingerprint import fingerprint
from refsweep.datasets.problems import DataError, InputError
from refsweep.datasets.storage.store import Store
from refsweep.orchestration.spec.data import data_of, place_of, prepare_data
from refsweep.orchestration.spec.read import make_spec
from refsweep.orchestration.spec.schema import SweepSpec


def spec_of(data: str, storage: Path, **changed: Any) -> SweepSpec:
    content = {"name": "s", "trainable": "ikun", "objective": {"metric": "hota", "mode": "max"}, "data": data}
    return make_spec({**content, "storage": str(storage), **changed})


@pytest.mark.parametrize(
    ("uri", "folder"),
    [
        ("made:refer-kitti", "refer-kitti-f052d9e63822"),
        ("made:refer-kitti?videos=6", "refer-kitti-3fbc663a1342"),
        ("made:orbench", "orbench-965f32eec318"),
        ("made:cuhk-pedes?identities=60&changed=.5", "cuhk-pedes-03715fd9e6f2"),
    ],
)
def test_made_data_of_earlier_sweeps_is_found_again(uri: str, folder: str, tmp_path: Path):
    """The folder's name is stored with data that was made before: it must not change for the same recipe."""
    (tmp_path / "made" / folder).mkdir(parents=True)
    (tmp_path / "made" / folder / "made.json").write_text("{}")
    assert place_of(uri, str(tmp_path)) == str(tmp_path / "made" / folder)
    assert [path.name for path in (tmp_path / "made").iterdir()] == [folder]


def test_data_that_was_not_made_to_its_end_is_made_again(tmp_path: Path):
    uri = "made:cuhk-pedes?identities=10&images=1"
    place = Path(place_of(uri, str(tmp_path)))
    whole = fingerprint(Store(str(place)))
    (place / "made.json").unlink()
    (place / "imgs" / "left-over.jpg").write_text("x")
    assert place_of(uri, str(tmp_path)) == str(place)
    assert fingerprint(Store(str(place))) == whole


def test_other_places_are_taken_as_they_are(tmp_path: Path):
    assert place_of("s3://bucket/x", "out") == "s3://bucket/x"
    assert place_of("here", "out") == "here"
    toy = {"trainable": "toy", "objective": {"metric": "loss", "mode": "min"}}
    assert data_of(spec_of("none", tmp_path, **toy)) is None
    assert prepare_data(spec_of("none", tmp_path, **toy)) == (None, "none")


def test_a_sweeps_data_comes_with_its_fingerprint_or_all_that_is_wrong(made_copy: Path, tmp_path: Path):
    assert prepare_data(spec_of(str(made_copy), tmp_path)) == (str(made_copy), fingerprint(Store(str(made_copy))))
    for path in list((made_copy / "expression").rglob("*.json"))[:2]:
        path.write_text('{"label": {}}')
    with pytest.raises(DataError, match="no positive example") as caught:
        prepare_data(spec_of(str(made_copy), tmp_path))
    assert len(caught.value.problems) == 2
    with pytest.raises(InputError, match="no data at"):
        prepare_data(spec_of(str(tmp_path / "nowhere"), tmp_path))
