"""Splits a description of a person into a part about the person and a part about the clothes.

A caption is cut into clauses: at punctuation, and before words that begin a new thought (`wearing`, `with`,
`and`, `has`, ...). A clause that names clothing goes to the clothing part, one that names a trait of the
person to the identity part, one that names both to both. A clause that names neither goes where the next one
of its sentence goes, else where the one before it went; a sentence that names neither goes to both parts.
No word is lost. A part may be empty.

The published code of this task keeps the first sentence of an identity instead, the last item winning.
"""

from __future__ import annotations

import re


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


CLOTHING = _words(
    """
    accessory apron backpack bag baggy belt blazer blouse boot bracelet briefcase cap cardigan checked checkered
    cloth clothed clothes clothing coat collar collared denim dress dressed earring dresses floral footwear
    garment glasses glove hat handbag headphone heel helmet hood hooded hoodie jacket jean jersey jumper khaki
    legging logo necklace outfit pant pants patterned plaid pocket polo print pullover purse robe sandal satchel
    scarf shirt shoe shoes shorts skirt slack sleeve sleeved sleeveless slipper sneaker sock stocking strap
    stripe striped suit suitcase sunglasses sweater sweatshirt tee tie tights top tote trainer trouser trousers
    tshirt tunic umbrella uniform vest watch wear wearing wears wore zipper
    """
)
IDENTITY = _words(
    """
    adult age aged arm arms asian athletic bald balding beard bearded bending blond blonde bob body boy broad
    brunette build built bulky bun child chin chubby complexion curly dreadlock elder elderly eye eyebrow face
    facial feature female figure forehead forties forward gait gentleman girl guy hair haircut hairdo haired
    hairline hairstyle head heavyset height hunched jaw kid lady lanky lean leaning leans leg legged male man
    mature men moustache muscular mustache neck nose old older olive overweight pace person pigtail plump
    ponytail pose posture robust shaved shaven shoulder shouldered skin skinned skinny slender slim stance step
    stocky stoop stooped stooping stoops stout stride striding strong sturdy swing swinging swings tall teenager
    thirties upright walk walking walks wig woman women young younger
    """
)
# Used of clothes as well: they count only in a clause that names no clothing.
_WEAK = _words(
    """
    arm arms big broad bulky forward he head heavy large leg light little narrow neck old she short shoulder
    small step strong thick thin walk walking walks wide young
    """
)
_STRONG = IDENTITY - _WEAK

_PUNCTUATION = re.compile(r"(?<=[.!?;:,])\s+")
_STARTS = re.compile(
    r"\s+(?=(?:(?:is|are|was|were|and|who|that|while)\s+)*"
    r"(?:wearing|wears|wore|dressed|carrying|carries|holding|holds|has|have|had|having|with|in|and|who|while|whose)\b)",
    re.IGNORECASE,
)
_SENTENCE_END = (".", "!", "?")
_WORD = re.compile(r"[a-z]+")


def split_caption(text: str) -> tuple[str, str]:
    """(identity part, clothing part) of a caption; see the module's notes."""
    identity: list[str] = []
    clothing: list[str] = []
    for sentence in _sentences(text):
        clauses = [clause for piece in sentence for clause in _STARTS.split(piece) if clause]
        for clause, (of_person, of_clothes) in zip(clauses, _settled([_names(c) for c in clauses]), strict=True):
            if of_person:
                identity.append(clause)
            if of_clothes:
                clothing.append(clause)
    return _joined(identity), _joined(clothing)


def _sentences(text: str) -> list[list[str]]:
    """Pieces between punctuation, by sentence."""
    sentences: list[list[str]] = [[]]
    for piece in _PUNCTUATION.split(" ".join(text.split())):
        if piece:
            sentences[-1].append(piece)
            if piece.endswith(_SENTENCE_END):
                sentences.append([])
    return [sentence for sentence in sentences if sentence]


def _names(clause: str) -> tuple[bool, bool]:
    """Whether a clause names (a trait of the person, clothing)."""
    words = set(_WORD.findall(clause.lower()))
    words |= {word[:-1] for word in words if word.endswith("s")}
    of_clothes = bool(words & CLOTHING)
    return bool(words & _STRONG) or (not of_clothes and bool(words & _WEAK)), of_clothes


def _settled(kinds: list[tuple[bool, bool]]) -> list[tuple[bool, bool]]:
    """The same with every clause that names neither given to its neighbour's part, or to both."""
    neither = (False, False)
    settled = list(kinds)
    for i in range(len(kinds) - 2, -1, -1):
        if settled[i] == neither:
            settled[i] = settled[i + 1]
    for i, kind in enumerate(settled):
        if kind == neither:
            settled[i] = settled[i - 1] if i else (True, True)
    return settled


def _joined(clauses: list[str]) -> str:
    return " ".join(clauses).rstrip(",;: ")
