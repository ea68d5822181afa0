"""Captions as token ids, each text once; and which captions of clothing are alike.

Shapes: E texts, T tokens, N rows, K candidates, V words.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor

from ..towers.text import Words, cut

Ints = NDArray[np.int64]


class TextTable:
    """Texts by number, as token ids of one length."""

    def __init__(self, words: Words, most_tokens: int) -> None:
        self.words, self.most_tokens = words, most_tokens
        self.texts: list[str] = []
        self.too_long = 0  # texts that were cut
        self._number: dict[str, int] = {}
        self._ids_ET = np.zeros((0, most_tokens), np.int32)

    def add(self, texts: Sequence[str]) -> Ints:
        """Their numbers; equal texts have one."""
        new = [text for text in dict.fromkeys(texts) if text not in self._number]
        if new:
            ids_ET, too_long = cut(self.words.encode(new), self.most_tokens)
            self.too_long += too_long
            self._number |= {text: len(self.texts) + i for i, text in enumerate(new)}
            self.texts += new
            self._ids_ET = np.concatenate([self._ids_ET, ids_ET])
        return np.array([self._number[text] for text in texts], np.int64)

    def ids(self, number_N: Tensor | Ints, device: torch.device | None = None) -> Tensor:
        """Token ids of numbered texts, N x T."""
        rows = number_N.cpu().numpy() if isinstance(number_N, Tensor) else number_N
        return torch.from_numpy(self._ids_ET[rows]).to(device or torch.device("cpu"))


class AlikeTexts:
    """Which of some texts are alike: the cosine of their words, rare ones counting more."""

    def __init__(self, texts: Sequence[str]) -> None:
        split = [sorted(set(text.lower().replace(".", " ").replace(",", " ").split())) for text in texts]
        number = {word: i for i, word in enumerate(sorted({word for words in split for word in words}))}
        column = np.array([number[word] for words in split for word in words], np.int64)
        start = np.cumsum([0, *(len(words) for words in split)])
        rarity_V = 1 + np.log(len(texts) / np.maximum(np.bincount(column, minlength=len(number)), 1))
        length_E = np.sqrt(np.add.reduceat(np.append(rarity_V[column] ** 2, 0), start[:-1])) if len(texts) else start
        length_E = np.where(np.diff(start) > 0, length_E, 1.0)
        value = rarity_V[column] / np.repeat(length_E, np.diff(start))
        self._words_EV = csr_array((value, column, start), shape=(len(texts), max(len(number), 1)))

    def cosine(self, one_N: Ints, two_N: Ints) -> NDArray[np.float64]:
        """Of texts pair by pair."""
        return np.asarray(self._words_EV[one_N].multiply(self._words_EV[two_N]).sum(1)).ravel()

    def hardest(self, text_N: Ints, person_N: Ints, of_person_E: Ints, pool: int, rng: Generator) -> Ints:
        """For each row a text of another person: of `pool` drawn at random the most alike, but never an equal one;
        -1 where none was drawn. A pool of 1 is a random text."""
        candidate_NK = rng.integers(len(of_person_E), size=(len(text_N), pool))
        alike = self.cosine(np.repeat(text_N, pool), candidate_NK.ravel()).reshape(candidate_NK.shape)
        refused_NK = (of_person_E[candidate_NK] == person_N[:, None]) | (alike > 1 - 1e-9)
        best_N = np.where(refused_NK, -1.0, alike).argmax(1)
        rows = np.arange(len(text_N))
        return np.where(refused_NK[rows, best_N], -1, candidate_NK[rows, best_N])
