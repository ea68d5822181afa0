"""Windows of tracks by hand, and what they say of boxes."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from refsweep.trainables.ikun.windows import Windows, box_scores, geometry, windows_of
from refsweep.trainables.metrics.tracking import Boxes

Frames = dict[int, list[int]]  # of each track


def boxes(tracks: Frames) -> Boxes:
    """Boxes without a place, sorted by id and then frame."""
    rows = [(frame, number) for number in sorted(tracks) for frame in sorted(tracks[number])]
    frame_N, id_N = np.array(rows, np.int64).reshape(-1, 2).T
    return Boxes(frame_N, id_N, np.zeros((len(rows), 4)))


def spans(windows: Windows) -> list[tuple[int, int]]:
    return list(zip(windows.start_W.tolist(), windows.stop_W.tolist(), strict=True))


@pytest.mark.parametrize(
    ("length", "expected"),
    [
        (1, [(0, 1)]),
        (3, [(0, 3)]),
        (8, [(0, 8)]),
        (9, [(0, 8), (1, 9)]),
        (12, [(0, 8), (4, 12)]),
        (13, [(0, 8), (4, 12), (5, 13)]),
        (16, [(0, 8), (4, 12), (8, 16)]),
    ],
)
def test_windows_of_one_track_by_hand(length: int, expected: list[tuple[int, int]]):
    assert spans(windows_of(boxes({7: list(range(20, 20 + length))}), 8, 4, 2)) == expected


def test_a_break_in_the_frames_splits():
    broken = boxes({1: [*range(9), *range(10, 13)]})
    assert spans(windows_of(broken, 8, 4, 2)) == [(0, 8), (1, 9), (9, 12)]


def test_a_new_id_splits_even_where_frames_go_on():
    two = boxes({1: list(range(8)), 2: list(range(8, 17))})
    assert spans(windows_of(two, 8, 4, 2)) == [(0, 8), (8, 16), (9, 17)]


def test_no_boxes_give_no_windows():
    windows = windows_of(boxes({}), 8, 4, 2)
    assert len(windows) == 0
    assert windows.looked_WT.shape == (0, 2)
    assert box_scores(windows, np.zeros((0, 3)), 0).shape == (0, 3)


@pytest.mark.parametrize(
    ("length", "looks", "offsets"),
    [
        (8, 2, [0, 4]),
        (8, 4, [0, 2, 4, 6]),
        (8, 8, list(range(8))),
        (7, 2, [0, 3]),
        (3, 2, [0, 1]),
        (1, 2, [0, 0]),
        (5, 4, [0, 1, 2, 3]),
        (3, 4, [0, 0, 1, 2]),
    ],
)
def test_looked_boxes_are_spread_from_the_first(length: int, looks: int, offsets: list[int]):
    before = {1: list(range(3))}
    windows = windows_of(boxes({**before, 2: list(range(length))}), 8, 4, looks)
    assert windows.looked_WT[1].tolist() == [3 + o for o in offsets]
    assert offsets == np.linspace(0, length, looks, endpoint=False).astype(int).tolist()


track_frames = st.lists(st.integers(0, 40), max_size=30, unique=True)


@given(
    st.lists(track_frames, max_size=4),
    st.integers(1, 9),
    st.integers(1, 9),
    st.integers(0, 2**32 - 1),
)
@settings(deadline=None)
def test_a_box_scores_the_mean_of_the_windows_that_cover_it(
    tracks: list[list[int]], frames: int, stride: int, seed: int
):
    stride = min(stride, frames)
    tracked = boxes(dict(enumerate(tracks)))
    windows = windows_of(tracked, frames, stride, 1)
    score_WE = np.random.default_rng(seed).standard_normal((len(windows), 3)).astype(np.float32)
    score_NE = box_scores(windows, score_WE, len(tracked))
    assert score_NE.shape == (len(tracked), 3)
    for box in range(len(tracked)):
        covering = [s for s, (start, stop) in zip(score_WE, spans(windows), strict=True) if start <= box < stop]
        assert covering
        assert score_NE[box] == pytest.approx(np.mean(covering, 0), abs=1e-5)


@given(st.lists(track_frames, max_size=4), st.integers(1, 9), st.integers(1, 9))
@settings(deadline=None)
def test_a_window_lies_in_one_unbroken_stretch_and_is_full_where_it_can_be(
    tracks: list[list[int]], frames: int, stride: int
):
    stride = min(stride, frames)
    tracked = boxes(dict(enumerate(tracks)))
    broken = (np.diff(tracked.id_N) != 0) | (np.diff(tracked.frame_N) != 1)
    edges = [0, *(np.flatnonzero(broken) + 1).tolist(), len(tracked)]
    seen = spans(windows_of(tracked, frames, stride, 1))
    for first, end in pairwise(edges):
        mine = [(start, stop) for start, stop in seen if first <= start < end]
        assert not mine or mine[-1][1] == end
        for start, stop in mine:
            assert stop <= end
            assert stop - start == min(frames, end - first)
    assert seen == sorted(set(seen))
    assert bool(seen) == bool(len(tracked))


SIZE = (200, 100)


def moving(frames: list[int], number: int = 1) -> tuple[list[int], list[int], list[list[float]]]:
    """A box whose centre goes 4 px right and 2 px up a frame, and which grows 2 px a frame in width."""
    xyxy = [[80 + 3 * f, 60 - 2 * f, 100 + 5 * f, 80 - 2 * f] for f in frames]
    return frames, [number] * len(frames), [[float(x) for x in row] for row in xyxy]


def as_boxes(*parts: tuple[list[int], list[int], list[list[float]]]) -> Boxes:
    frame, number, xyxy = (np.concatenate([np.array(p[i]) for p in parts]) for i in range(3))
    return Boxes(frame, number, xyxy.astype(np.float64))


PER_WINDOW = [8 * 4 / 200, -8 * 2 / 100, 8 * 2 / 200, 0.0]  # 8 frames, relative to the frame


def test_geometry_of_a_box_at_constant_speed_is_the_same_along_the_track():
    geometry_N8 = geometry(as_boxes(moving(list(range(12)))), SIZE, 4)
    assert geometry_N8.shape == (12, 8)
    assert geometry_N8.dtype == np.float32
    assert geometry_N8[0, :4] == pytest.approx([90 / 200, 70 / 100, 20 / 200, 20 / 100])
    assert geometry_N8[5, :4] == pytest.approx([110 / 200, 60 / 100, 30 / 200, 20 / 100])
    for row in geometry_N8:  # at both ends fewer frames are compared, and the change is that of a whole window
        assert row[4:] == pytest.approx(PER_WINDOW, abs=1e-6)


def test_geometry_reaches_to_both_sides_and_no_further():
    jumps = as_boxes(moving(list(range(12))))
    jumps.xyxy_N4[8] += 100
    plain, jumped = (geometry(b, SIZE, 3) for b in (as_boxes(moving(list(range(12)))), jumps))
    differs = np.flatnonzero(np.abs(plain[:, 4:] - jumped[:, 4:]).max(1) > 1e-6)
    assert differs.tolist() == [5, 11]  # those whose outermost neighbour is 8


@pytest.mark.parametrize("second", [2, 1])
def test_geometry_does_not_look_across_a_break_or_another_id(second: int):
    later = moving(list(range(7, 12)), second)
    for row in later[2]:
        row[0] += 50
        row[2] += 50
    together = geometry(as_boxes(moving(list(range(6))), later), SIZE, 4)
    apart = [geometry(as_boxes(part), SIZE, 4) for part in (moving(list(range(6))), later)]
    np.testing.assert_array_equal(together, np.concatenate(apart))
    assert together[:, 4:] == pytest.approx(np.tile(PER_WINDOW, (11, 1)), abs=1e-6)


def test_a_lone_box_does_not_move():
    geometry_N8 = geometry(as_boxes(moving([3])), SIZE, 4)
    assert geometry_N8[0, 4:].tolist() == [0, 0, 0, 0]


def test_geometry_of_nothing_is_empty():
    assert geometry(boxes({}), SIZE, 4).shape == (0, 8)


def window_means(windows: Windows, value_N: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.array([[value_N[start:stop].mean()] for start, stop in spans(windows)])


def test_scores_that_are_the_same_in_all_windows_come_back_as_they_are():
    tracked = boxes({1: list(range(13)), 2: [0, 1, 5]})
    windows = windows_of(tracked, 8, 4, 2)
    by_track = np.where(tracked.id_N == 1, 0.25, -0.5)
    assert box_scores(windows, window_means(windows, by_track), len(tracked))[:, 0] == pytest.approx(by_track)
