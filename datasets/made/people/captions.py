"""Writes captions of a made person: identity and clothes, in many phrasings, each leaving something out.

Each clause is about the person or about the clothes, so that `split_caption` can separate them again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from numpy.random import Generator

from .person import Clothes, Person

_NOUN = {
    "man": ("man", "man", "male", "guy", "gentleman"),
    "woman": ("woman", "woman", "female", "lady", "girl"),
    "person": ("person", "pedestrian"),
}
_PRONOUN = {"man": ("He", "The man"), "woman": ("She", "The woman"), "person": ("This person", "The person")}
_BUILD = {
    "slim": ("slim", "thin", "slender", "skinny"),
    "average": ("medium-built", "average-sized"),
    "sturdy": ("sturdy", "stocky", "strongly built"),
    "heavy": ("heavy", "overweight", "plump", "heavyset"),
}
_HEIGHT = {"short": ("short", "small"), "average": ("medium-height",), "tall": ("tall",)}
_SKIN = {
    "pale": ("pale skin", "fair skin", "light skin"),
    "tanned": ("tanned skin", "olive skin"),
    "brown": ("brown skin",),
    "dark": ("dark skin", "very dark skin"),
}
_FACE = {
    "round": ("a round face", "a broad round face"),
    "long": ("a long face", "a narrow face"),
    "square": ("a square face", "a square jaw"),
}
_BEARD = {"none": (), "beard": ("a beard", "a full beard"), "moustache": ("a moustache", "a mustache")}
_HAIR = {
    "bald": ("a bald head", "a shaved head", "no hair"),
    "cropped": ("short {} hair", "cropped {} hair", "{} hair cut short"),
    "bob": ("a {} bob", "chin-length {} hair", "{} hair cut in a bob"),
    "long": ("long {} hair", "long straight {} hair", "{} hair below the shoulders"),
    "ponytail": ("a {} ponytail", "{} hair tied in a ponytail"),
    "bun": ("a {} bun", "{} hair tied up in a bun"),
    "curly": ("curly {} hair", "a head of {} curly hair"),
}
_HAIR_COLOUR = {
    "black": ("black", "dark"),
    "brown": ("brown",),
    "blond": ("blond", "blonde", "fair"),
    "red": ("red", "ginger"),
    "grey": ("grey", "gray"),
}
_GAIT = {
    "upright": ("walks upright", "walks upright taking small steps"),
    "striding": ("takes long strides", "strides along taking long steps"),
    "stooped": ("walks stooped forward", "stoops while walking", "leans forward while walking"),
    "swinging": ("swings the arms widely", "walks swinging both arms"),
}
_COLOUR = {
    "black": ("black",),
    "white": ("white",),
    "grey": ("grey", "gray"),
    "red": ("red", "bright red"),
    "blue": ("blue",),
    "green": ("green",),
    "yellow": ("yellow",),
    "purple": ("purple", "violet"),
}
_TOP = {
    "t-shirt": ("t-shirt", "tee shirt", "short-sleeved top"),
    "shirt": ("shirt", "button-up shirt", "collared shirt"),
    "sweater": ("sweater", "jumper", "pullover"),
    "hoodie": ("hoodie", "hooded sweatshirt"),
    "jacket": ("jacket", "open jacket"),
    "coat": ("coat", "long coat"),
}
_PATTERN = {"striped": ("striped",), "checked": ("checked", "plaid"), "dotted": ("dotted", "spotted"), "plain": ()}
_BOTTOM = {
    "trousers": ("trousers", "pants", "slacks"),
    "jeans": ("jeans", "denim trousers"),
    "shorts": ("shorts",),
    "skirt": ("a {} skirt",),
}
_SHOES = ("shoes", "sneakers", "trainers")
_WEARS = ("wears", "is wearing", "is dressed in", "has on")


def describe(person: Person, clothes: Clothes, rng: Generator) -> str:
    """A caption of one to four sentences about a person and some of the clothes."""
    noun = person.gender if rng.random() < 0.92 else "person"
    form = int(rng.integers(4))
    if form == 0:  # one sentence after the other: the person, then the clothes
        words = _sentence(f"{_subject(person, noun, rng)} with {_traits(person, rng)}")
        return f"{words} {_maybe_gait(person, noun, rng)}{_clothes_sentence(clothes, noun, rng)}"
    if form == 1:  # clothes first
        first = f"{_article(_one(_NOUN[noun], rng))} {_one(_WEARS, rng)} {_clothes(clothes, rng)}"
        traits = f"{_one(_PRONOUN[noun], rng)} has {_traits(person, rng)}"
        body = _body(person, rng)
        if body:
            traits += f" and is {body}"
        return f"{_sentence(first)} {_sentence(traits)} {_maybe_gait(person, noun, rng)}".strip()
    joined = f"{_subject(person, noun, rng)} with {_traits(person, rng)} {_one(_WEARS, rng)} {_clothes(clothes, rng)}"
    if form == 2:  # all in one
        return f"{_sentence(joined)} {_maybe_gait(person, noun, rng)}".strip()
    start = f"{_subject(person, noun, rng)} {_one(_GAIT[person.gait], rng)}"
    return f"{_sentence(start)} {_one(_PRONOUN[noun], rng)} has {_traits(person, rng)}. " + _clothes_sentence(
        clothes, noun, rng
    )


def _one(choices: Sequence[str], rng: Generator) -> str:
    return choices[int(rng.integers(len(choices)))]


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _article(text: str) -> str:
    return f"{'an' if text[0] in 'aeiou' else 'a'} {text}"


def _listed(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _body(person: Person, rng: Generator) -> str:
    """Height and build as adjectives, or nothing."""
    words = []
    for table, value in ((_HEIGHT, person.height), (_BUILD, person.build)):
        if rng.random() < (0.35 if value == "average" else 0.8):
            words.append(_one(table[value], rng))
    return _listed(words) if words else ""


def _subject(person: Person, noun: str, rng: Generator) -> str:
    body = _body(person, rng).replace(" and ", " ")
    return _article(f"{body} {_one(_NOUN[noun], rng)}".strip())


def _traits(person: Person, rng: Generator) -> str:
    """Hair, and some of skin, face and beard."""
    hair = _one(_HAIR[person.hair], rng).format(_one(_HAIR_COLOUR[person.hair_colour], rng))
    traits = [hair] if rng.random() < 0.92 else []
    options: Mapping[str, Sequence[str]] = {
        "skin": _SKIN[person.skin],
        "face": _FACE[person.face],
        "beard": _BEARD[person.beard],
    }
    for name, share in (("skin", 0.7), ("face", 0.45), ("beard", 0.8)):
        if options[name] and rng.random() < share:
            traits.append(_one(options[name], rng))
    traits = traits or [hair]
    return _listed([traits[i] for i in rng.permutation(len(traits))])


def _maybe_gait(person: Person, noun: str, rng: Generator) -> str:
    if rng.random() < 0.45:
        return ""
    return f"{_one(_PRONOUN[noun], rng)} {_one(_GAIT[person.gait], rng)}. "


def _clothes_sentence(clothes: Clothes, noun: str, rng: Generator) -> str:
    return f"{_one(_PRONOUN[noun], rng)} {_one(_WEARS, rng)} {_clothes(clothes, rng)}."


def _clothes(clothes: Clothes, rng: Generator) -> str:
    """The top, and some of the rest."""
    colour, top = _one(_COLOUR[clothes.top_colour], rng), _one(_TOP[clothes.top], rng)
    pattern = _one(_PATTERN[clothes.pattern], rng) if clothes.pattern != "plain" and rng.random() < 0.8 else ""
    items = [_article(" ".join(word for word in (colour, pattern, top) if word))]
    if rng.random() < 0.8:
        lower, shade = _one(_BOTTOM[clothes.bottom], rng), _one(_COLOUR[clothes.bottom_colour], rng)
        items.append(lower.format(shade) if "{}" in lower else f"{shade} {lower}")
    if rng.random() < 0.5:
        items.append(f"{_one(_COLOUR[clothes.shoe_colour], rng)} {_one(_SHOES, rng)}")
    words = _listed(items)
    if clothes.bag != "none" and rng.random() < 0.75:
        words += f" {_one(('with', 'and carries', 'carrying'), rng)} {_article(f'{clothes.bag_colour} {clothes.bag}')}"
    return words
