from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from refsweep.datasets.layouts.shared import kitti
from refsweep.datasets.problems import DataError

LABEL = "3 7 Car 0.00 1 -1.57 100.0 50.5 200.0 120.25 1.5 1.6 4.0 -2.0 1.7 20.0 -1.57"


def test_a_label_row_by_hand():
    rows = kitti.read_labels(LABEL, "x")
    assert rows.frame_N.tolist() == [3]
    assert rows.id_N.tolist() == [7]
    assert rows.category_N.tolist() == ["Car"]
    assert rows.xyxy_N4.tolist() == [[100.0, 50.5, 200.0, 120.25]]
    assert rows.occluded_N.tolist() == [1]
    assert rows.location_N3.tolist() == [[-2.0, 1.7, 20.0]]
    assert rows.size_N3.tolist() == [[1.5, 1.6, 4.0]]
    assert rows.rotation_y_N.tolist() == [-1.57]
    assert np.isnan(rows.score_N).all()


def test_a_track_row_carries_its_score_in_the_last_column():
    assert kitti.read_labels(f"{LABEL} 0.75", "x").score_N.tolist() == [0.75]
    assert kitti.read_labels(f"{LABEL} -1 0.5", "x").score_N.tolist() == [0.5]


def test_every_bad_line_is_named():
    text = "\n".join([LABEL, "1 2 Car", LABEL.replace("100.0", "wide"), LABEL.replace("3 7", "-3 7")])
    with pytest.raises(DataError) as caught:
        kitti.read_labels(text, "0001.txt")
    assert [p.where for p in caught.value.problems] == ["0001.txt:2", "0001.txt:3", "0001.txt:4"]


@given(
    st.lists(
        st.tuples(
            st.integers(0, 999),
            st.integers(-1, 200),
            st.sampled_from(["Car", "Pedestrian", "DontCare"]),
            st.lists(st.floats(-100, 2000), min_size=4, max_size=4),
            st.floats(0, 1),
        ),
        max_size=20,
    )
)
def test_writing_and_reading_again_gives_the_same_rows(rows: list[tuple[int, int, str, list[float], float]]):
    made = kitti.rows_of([(f, i, c, box, s, 0, [1.0, 2.0, 3.0], [1.5, 1.6, 4.0], 0.1) for f, i, c, box, s in rows])
    again = kitti.read_labels(kitti.write_labels(made), "x")
    assert again.frame_N.tolist() == made.frame_N.tolist()
    assert again.category_N.tolist() == made.category_N.tolist()
    np.testing.assert_allclose(again.xyxy_N4, made.xyxy_N4, atol=1e-6)
    np.testing.assert_allclose(again.score_N, made.score_N, atol=1e-6)


def test_real_labels_tracks_and_detections_are_read(shared: Path):
    folder = shared / "data" / "kitti"
    labels = kitti.read_labels((folder / "label_02" / "0005.txt").read_text(), "0005")
    assert labels.frame_N.max() == 296
    assert sorted(set(labels.category_N.tolist())) == ["Car", "Cyclist", "DontCare", "Truck", "Van"]
    tracks = kitti.read_labels((folder / "tracks" / "YOLOX-STRONG-SORT" / "0005.txt").read_text(), "0005")
    assert len(tracks) == 883
    assert np.isfinite(tracks.score_N).all()
    detections = kitti.read_detections((folder / "detections" / "Car" / "0005.txt").read_text(), "0005")
    assert set(detections.category_N.tolist()) == {"Car"}
    # detections and labels speak of the same boxes: most cars near us are found
    near = labels.take((labels.category_N == "Car") & (labels.location_N3[:, 2] < 20) & (labels.occluded_N == 0))
    hit = 0
    for frame, box in zip(near.frame_N, near.xyxy_N4, strict=True):
        other = detections.xyxy_N4[detections.frame_N == frame]
        hit += bool(len(other)) and float(np.abs(other - box).max(1).min()) < 40
    assert hit / len(near) > 0.8
