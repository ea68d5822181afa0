"""Text towers: Hugging Face's BERT (arXiv 1810.04805) with its own word pieces, and a small one for machines without
a GPU, which reads CLIP's byte pairs folded into a small vocabulary.

Shapes: E texts, T tokens, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, Protocol

import numpy as np
import open_clip
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import AutoTokenizer, BertConfig, BertModel

from ...datasets.problems import InputError
from .hugging_face import check_sizes, load, load_model
from .sizes import TextSizes


class Words(Protocol):
    """Texts to token ids without a limit: the first one stands for the whole, none is 0."""

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, with the marks of beginning and end."""

    def as_text(self) -> str | None:
        """What a package must hold to make this again; None for the folded ones."""


@cache
def _byte_pairs() -> Any:
    return open_clip.SimpleTokenizer()


class FoldedWords:
    """CLIP's byte pairs folded into a vocabulary of any size; 0 stays free for places after the end."""

    def __init__(self, vocabulary: int) -> None:
        self.vocabulary = vocabulary

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        pairs = _byte_pairs()
        ids_of = ([pairs.sot_token_id, *pairs.encode(text), pairs.eot_token_id] for text in texts)
        return [[1 + i % (self.vocabulary - 1) for i in ids] for ids in ids_of]

    def as_text(self) -> None:
        return None


class WordPieces:
    """A Hugging Face tokenizer, as the JSON it is made of."""

    def __init__(self, content: str) -> None:
        try:
            self._tokenizer = Tokenizer.from_str(content)
        except Exception as error:  # noqa: BLE001  the library raises nothing narrower
            raise InputError(f"the tokenizer can't be read: {' '.join(str(error).split())[:300]}") from None
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    @classmethod
    def load(cls, uri: str) -> WordPieces:
        """The tokenizer that lies with weights. Raises InputError when there is none."""
        return cls(load(AutoTokenizer.from_pretrained, uri, use_fast=True).backend_tokenizer.to_str())

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]

    def as_text(self) -> str:
        return str(self._tokenizer.to_str())


def words_of(sizes: TextSizes, weights: str | None, content: str | None = None) -> Words:
    """The tokenizer that belongs to a tower: its package's, its weights', or the folded one."""
    if content is not None:
        return WordPieces(content)
    return FoldedWords(sizes.vocabulary) if weights is None else WordPieces.load(weights)


def cut(ids: Sequence[Sequence[int]], most: int) -> tuple[NDArray[np.int32], int]:
    """(E x `most` ids, 0 after the end; how many texts were longer). Longer ones lose what is before their end mark."""
    ids_ET = np.zeros((len(ids), most), np.int32)
    too_long = 0
    for row, one in enumerate(ids):
        too_long += len(one) > most
        kept = list(one) if len(one) <= most else [*one[: most - 1], one[-1]]
        ids_ET[row, : len(kept)] = kept
    return ids_ET, too_long


class TextTower(nn.Module):
    """Texts to a feature of the whole and one of each token."""

    def __init__(self, sizes: TextSizes, weights: str | None = None) -> None:
        super().__init__()
        self.sizes = sizes
        self.body: Any
        if weights is None:
            config = BertConfig(
                vocab_size=sizes.vocabulary,
                hidden_size=sizes.width,
                num_hidden_layers=sizes.layers,
                num_attention_heads=sizes.heads,
                intermediate_size=4 * sizes.width,
                max_position_embeddings=sizes.context,
                hidden_dropout_prob=sizes.dropout,
                attention_probs_dropout_prob=sizes.dropout,
            )
            self.body = BertModel(config, add_pooling_layer=False)
        else:
            self.body = load_model(BertModel, weights, add_pooling_layer=False)
            wanted = {"hidden_size": sizes.width, "num_hidden_layers": sizes.layers, "vocab_size": sizes.vocabulary}
            check_sizes(weights, self.body.config, {**wanted, "num_attention_heads": sizes.heads})

    def forward(self, ids_ET: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(whole E x D, tokens E x T x D, which of them are there E x T); T ends with the longest text."""
        there_ET = ids_ET != 0
        longest = int(there_ET.sum(1).max())
        ids_ET, there_ET = ids_ET[:, :longest].long(), there_ET[:, :longest]
        state_ETD = self.body(input_ids=ids_ET, attention_mask=there_ET.long()).last_hidden_state
        whole_ED = state_ETD[:, 0]
        if self.sizes.mean:
            whole_ED = (state_ETD * there_ET[..., None]).sum(1) / there_ET.sum(1, keepdim=True).clamp(min=1)
        return whole_ED, state_ETD, there_ET
