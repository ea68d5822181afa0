"""Predictions of iKUN over a stream of frames: crops are encoded once, windows scored as soon as they can be."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...datasets.stream import Arrays
from .model import Ikun, channels_first
from .scoring import Scorer
from .truth import TrackedVideo


class WindowScores:
    """Scores windows once all frames they look at have come. Batches must come in the plan's order."""

    def __init__(self, model: Ikun, video: Callable[[str], TrackedVideo]) -> None:
        """`video` gives a video by its name."""
        self.model, self.video = model, video
        self._current: _VideoInFlight | None = None

    def __call__(self, batch: Mapping[str, Any]) -> Arrays:
        """`score`: for each video that this batch completes, its windows x its expressions, flattened."""
        parts = [self._advance(batch, video, rows) for video, rows in _runs(batch["video"])]
        return {"score": np.concatenate([p for part in parts for p in part] or [np.zeros(0, np.float32)])}

    def _advance(self, batch: Mapping[str, Any], video: str, rows: slice) -> Iterator[NDArray[np.float32]]:
        if self._current is None or self._current.video.video != video:
            self._current = _VideoInFlight(self.model, self.video(video))
        self._current.take(batch, rows)
        if self._current.finished:
            yield self._current.score_WE.ravel()
            self._current = None


class _VideoInFlight:
    """A video whose frames are coming: crops that later windows still need are kept."""

    def __init__(self, model: Ikun, video: TrackedVideo) -> None:
        self.video, self.geometry = video, model.config.geometry
        self.device = next(model.parameters()).device
        self.scorer = Scorer(model, model.clip.tokenize(video.texts).to(self.device))
        self.crops: dict[int, Tensor] = {}
        looked = video.windows.looked_WT
        self.score_WE = np.full((len(looked), len(video.texts)), np.nan, np.float32)
        self.missing = dict.fromkeys(np.unique(looked).tolist(), 0)
        self.waiting = [len(set(w)) for w in looked.tolist()]
        self.windows_of: dict[int, list[int]] = {row: [] for row in self.missing}
        for window, rows in enumerate(looked.tolist()):
            for row in set(rows):
                self.windows_of[row].append(window)
                self.missing[row] += 1

    @property
    def finished(self) -> bool:
        """Whether every window has its scores."""
        return not any(self.waiting)

    def take(self, batch: Mapping[str, Any], rows: slice) -> None:
        """Takes in the frames `rows` of a batch with their crops, and scores the windows that they complete."""
        frame_of = batch["frame_of"]
        here = (frame_of >= rows.start) & (frame_of < rows.stop)
        crop_NED = self.scorer.crops(
            channels_first(self._tensor(batch["frame"][rows])),
            channels_first(self._tensor(batch["crop"][here])),
            self._tensor(frame_of[here] - rows.start),
            self._tensor(batch["geometry"][here]) if self.geometry else None,
        )
        ready: list[int] = []
        for row, crop_ED in zip(batch["row"][here].tolist(), crop_NED, strict=True):
            self.crops[row] = crop_ED
            for window in self.windows_of[row]:
                self.waiting[window] -= 1
                if not self.waiting[window]:
                    ready.append(window)
        if not ready:
            return
        looked = self.video.windows.looked_WT[ready]
        needed = np.unique(looked)
        stack_NED = torch.stack([self.crops[row] for row in needed.tolist()])
        at = self._tensor(np.searchsorted(needed, looked))
        self.score_WE[ready] = self.scorer.windows(stack_NED, at).float().cpu().numpy()
        for rows_of_window in looked.tolist():
            for row in set(rows_of_window):
                self.missing[row] -= 1
                if not self.missing[row]:
                    del self.crops[row]

    def _tensor(self, array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device, non_blocking=True)


def _runs(video: NDArray[np.str_]) -> Iterator[tuple[str, slice]]:
    """Rows of a batch that follow each other and are of one video."""
    edges = np.flatnonzero(np.concatenate([[True], video[1:] != video[:-1], [True]]))
    for start, stop in pairwise(edges.tolist()):
        yield str(video[start]), slice(start, stop)
