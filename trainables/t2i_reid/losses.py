"""The losses of `t2i_reid` and how their weights grow.

In-batch losses see the rows of one worker: with several, each row meets fewer others.

Shapes: B rows, P pairs of a picture and a description of clothing, D width of an embedding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812  its usual name
from torch import Tensor

from ..layers.gradient_reversal import ramp, reverse_gradient, strength
from ..losses.clothing import ADVERSARY_START, cloth_adversary, cloth_matching
from ..losses.contrastive import info_nce, symmetric_info_nce, who
from ..losses.decoupling import decoupling
from .config import Config
from .model import Pictures, T2iReid
from .texts import TextTable

LOSSES = ("info_nce", "cls", "bio", "cloth", "cloth_adv", "cloth_match", "decouple", "fuse")


@dataclass(frozen=True, slots=True)
class Row:
    """Labels and numbers of texts of a batch's rows."""

    label_B: Tensor
    caption_B: Tensor  # numbers of texts
    identity_text_B: Tensor
    clothing_text_B: Tensor
    other_text_B: Tensor  # another person's clothing, or -1
    other_label_B: Tensor


class TrainingLosses:
    """The training objective: weighted terms of a batch."""

    def __init__(self, config: Config, model: T2iReid, table: TextTable) -> None:
        self.config, self.model, self.table = config, model, table

    def alpha(self, progress: float) -> float:
        """Strength of the gradient reversal at a share of the training."""
        c = self.config
        return float(c.grl_alpha * strength(c.grl_schedule, ramp(progress, c.epochs, c.grl_until, c.schedule_unit)))

    def weight(self, loss: str, progress: float) -> float:
        """The weight of one of LOSSES at a share of the training."""
        c = self.config
        weight = float(getattr(c, loss))
        if loss == "cloth_adv":
            done = ramp(progress, c.epochs, c.cloth_adv_until, c.schedule_unit)
            return weight * (ADVERSARY_START + (1 - ADVERSARY_START) * done)
        if loss == "fuse" and c.fusion is None:
            return 0.0
        return weight

    def __call__(self, batch: Mapping[str, Tensor], progress: float) -> dict[str, Tensor]:
        """Each of LOSSES that has a weight, times it; scalars."""
        weights = {loss: self.weight(loss, progress) for loss in LOSSES}
        features = _Batch(self, Row(*(batch[n] for n in _COLUMNS)), batch["image"], self.alpha(progress))
        return {loss: weight * getattr(features, loss)() for loss, weight in weights.items() if weight > 0}


_COLUMNS = ("label", "caption", "identity_text", "clothing_text", "other_text", "other_label")


class _Batch:
    """Features of a batch, and one method a loss."""

    def __init__(self, objective: TrainingLosses, row: Row, image_BHW3: Tensor, alpha: float) -> None:
        self.config, self.model, self.row = objective.config, objective.model, row
        self.pictures: Pictures = self.model.encode_images(image_BHW3, alpha)
        matched_B = row.caption_B if self.config.match_text == "caption" else row.identity_text_B
        self.unmatched_B = row.other_text_B >= 0
        numbers = [matched_B, row.identity_text_B, row.clothing_text_B, row.other_text_B[self.unmatched_B]]
        number_E, place = torch.unique(torch.cat(numbers), return_inverse=True)  # each text is encoded once
        texts = self.model.encode_texts(objective.table.ids(number_E, image_BHW3.device))
        at = [texts.take(rows) for rows in place.split([len(n) for n in numbers])]
        self.matched, self.identity, self.clothing, self.other = at
        self.same_person_BB = row.label_B[:, None] == row.label_B
        self.same_text_BB = matched_B[:, None] == matched_B
        self.own_BB = torch.eye(len(matched_B), dtype=torch.bool, device=matched_B.device)

    def info_nce(self) -> Tensor:
        """InfoNCE of pictures and texts that describe a person, both ways."""
        c = self.config
        return symmetric_info_nce(
            self.pictures.image_BD,
            self.matched.text_ED,
            self.same_person_BB,
            c.temperature,
            c.positives,
            self.same_text_BB,
        )

    def cls(self) -> Tensor:
        """Cross-entropy of the training set's people."""
        return F.cross_entropy(self.model.classifier(self.pictures.id_BW).float(), self.row.label_B)

    def bio(self) -> Tensor:
        """InfoNCE of the projected identity feature with the text on identity, one way."""
        same_text_BB = self.row.identity_text_B[:, None] == self.row.identity_text_B
        positive_BB, ignored_BB = who(self.same_person_BB, self.own_BB, self.config.positives, same_text_BB)
        projected_BD = F.normalize(self.model.bio_projector(self.pictures.id_BW), dim=-1)
        return info_nce(projected_BD, self.identity.text_ED, positive_BB, self.config.temperature, ignored_BB)

    def cloth(self) -> Tensor:
        """InfoNCE of the projected clothing feature with its description, one way."""
        own_BB = self.own_BB | self._same_clothing_BB()
        projected_BD = F.normalize(self.model.cloth_projector(self.pictures.cloth_BW), dim=-1)
        return info_nce(
            projected_BD, self.clothing.text_ED, own_BB, self.config.temperature, self.same_person_BB & ~own_BB
        )

    def cloth_adv(self) -> Tensor:
        """The identity path, away from the description of the clothing.

        away        the embedding that is searched loses agreement with the description, as it is
        reversal    a projector and the text tower learn to find the description from the identity feature, which is
                    moved, through a reversal of its own, so that they can't
        """
        holds_BB = self.same_person_BB | self._same_clothing_BB()
        temperature = self.config.temperature
        if self.config.cloth_adv_kind == "away":
            return cloth_adversary(self.pictures.image_BD, self.clothing.text_ED, holds_BB, temperature)
        own_BB = self.own_BB | self._same_clothing_BB()
        projected_BD = F.normalize(self.model.adversary(reverse_gradient(self.pictures.id_BW, 1.0)), dim=-1)
        return info_nce(projected_BD, self.clothing.text_ED, own_BB, temperature, self.same_person_BB & ~own_BB)

    def cloth_match(self) -> Tensor:
        """Matching of clothing embeddings with descriptions of their own and of others' clothing."""
        row, rows_B = self.row, torch.arange(len(self.row.label_B), device=self.row.label_B.device)
        image_of_P = torch.cat([rows_B, rows_B[self.unmatched_B]])
        text_P = torch.cat([row.clothing_text_B, row.other_text_B[self.unmatched_B]])
        label_P = torch.cat([row.label_B, row.other_label_B[self.unmatched_B]])
        return cloth_matching(
            self.pictures.cloth_image_BD,
            torch.cat([self.clothing.text_ED, self.other.text_ED]),
            image_of_P,
            torch.arange(len(text_P), device=text_P.device) < len(rows_B),
            text_P[:, None] == text_P,
            row.label_B[:, None] == label_P,
            self.config.temperature,
        )

    def decouple(self) -> Tensor:
        """Dependence of the two features of a picture."""
        id_BX, cloth_BX = self.pictures.id_BW, self.pictures.cloth_BW
        if self.config.decouple_on == "projections":
            id_BX, cloth_BX = self.model.decouple_id(id_BX), self.model.decouple_cloth(cloth_BX)
        return decoupling(id_BX, cloth_BX, self.config.decouple_kind)

    def fuse(self) -> Tensor:
        """Whether the fused feature of a picture and a text tells own texts from those of others: each row's own pair,
        and the row crossed with the one whose text is most alike, both ways."""
        refused_BB = self.same_person_BB | self.same_text_BB
        alike_BB = (self.matched.text_ED @ self.matched.text_ED.T).detach().masked_fill(refused_BB, float("-inf"))
        hard_B = alike_BB.argmax(1)
        crossed = (~refused_BB).any(1)
        rows_B = torch.arange(len(hard_B), device=hard_B.device)
        image_P = torch.cat([rows_B, rows_B[crossed], hard_B[crossed]])
        text_P = torch.cat([rows_B, hard_B[crossed], rows_B[crossed]])
        logit_P = self.model.matching(self.pictures.take(image_P), self.matched.take(text_P))
        own_P = (torch.arange(len(logit_P), device=logit_P.device) < len(rows_B)).float()
        return F.binary_cross_entropy_with_logits(logit_P.float(), own_P)

    def _same_clothing_BB(self) -> Tensor:
        return self.row.clothing_text_B[:, None] == self.row.clothing_text_B
