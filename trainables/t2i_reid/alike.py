"""Which captions of clothing are alike.

Shapes: E texts, N rows, K candidates, V words.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.sparse import csr_array

Ints = NDArray[np.int64]


class AlikeTexts:
    """How alike texts are: the cosine of their words, rare ones counting more."""

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
        """Cosines of texts pair by pair, N, 0..1."""
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
