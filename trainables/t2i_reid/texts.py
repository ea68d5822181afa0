"""Captions as token ids, each text once.

Shapes: E texts, T tokens, N rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...datasets.layouts.cuhk_pedes import SPLITS
from ..towers.sizes import text_sizes
from ..towers.text import Words, cut, words_of
from .config import Config

Ints = NDArray[np.int64]
SCORED_TRAIN = "train, scored"  # queries of the training split, beside what is trained on
PAGES = (*SPLITS, SCORED_TRAIN)


class TextTable:
    """Texts by number, as token ids of one length.

    Each split has numbers of its own, so that they do not depend on which split is planned first.
    """

    def __init__(self, words: Words, most_tokens: int) -> None:
        self.words, self.most_tokens = words, most_tokens
        self._pages = [_Page(most_tokens) for _ in PAGES]

    @property
    def too_long(self) -> int:
        """How many texts were cut."""
        return sum(page.too_long for page in self._pages)

    def add(self, texts: Sequence[str], split: str = SPLITS[0]) -> Ints:
        """Numbers of a split's texts, new ones are taken in; equal texts have one number."""
        at = PAGES.index(split)
        page = self._pages[at]
        new = [text for text in dict.fromkeys(texts) if text not in page.place]
        if new:
            ids_ET, too_long = cut(self.words.encode(new), self.most_tokens)
            page.too_long += too_long
            page.place |= {text: len(page.place) + i for i, text in enumerate(new)}
            page.ids_ET = np.concatenate([page.ids_ET, ids_ET])
        return np.array([page.place[text] for text in texts], np.int64) + at * _PAGE

    def text(self, number: int) -> str:
        """The text of a number."""
        return list(self._pages[number // _PAGE].place)[number % _PAGE]

    def ids(self, number_N: Tensor | Ints, device: torch.device | None = None) -> Tensor:
        """Token ids of numbered texts of one split, N x T."""
        numbers = number_N.cpu().numpy() if isinstance(number_N, Tensor) else number_N
        page = self._pages[int(numbers[0]) // _PAGE if len(numbers) else 0]
        return torch.from_numpy(page.ids_ET[numbers % _PAGE]).to(device or torch.device("cpu"))


_PAGE = 1 << 32  # numbers of a split


class _Page:
    """The texts of a split."""

    def __init__(self, most_tokens: int) -> None:
        self.place: dict[str, int] = {}
        self.ids_ET = np.zeros((0, most_tokens), np.int32)
        self.too_long = 0


def make_table(config: Config, facts: Mapping[str, Any]) -> TextTable:
    """An empty table with the tokenizer of a package's facts, else with the one of the Config's weights."""
    words = words_of(text_sizes(config.text_tower), config.text_weights, facts.get("words"))
    return TextTable(words, config.max_tokens)
