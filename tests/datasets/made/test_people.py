"""Made people: the same from the same seeds, clothes apart from identity, four modalities, captions that say it."""

from __future__ import annotations

import re
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from refsweep.datasets.layouts import cuhk_pedes, orbench
from refsweep.datasets.layouts.orbench import IMAGE_MODALITIES
from refsweep.datasets.layouts.shared.captions import split_caption
from refsweep.datasets.made import cuhk_pedes as made_cuhk_pedes
from refsweep.datasets.made import orbench as made_orbench
from refsweep.datasets.made.people.identities import People, PeopleRecipe, Scene
from refsweep.datasets.made.people.person import COLOURS
from refsweep.datasets.made.people.write import factors
from refsweep.datasets.problems import InputError
from refsweep.datasets.storage.store import Store
from refsweep.tests.help import tree

SMALL = PeopleRecipe(identities=20, images=3, changed=0.4, seed=5)


@pytest.fixture(scope="module")
def pedes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("pedes") / "out"
    made_cuhk_pedes.make(Store(str(out)), SMALL)
    return out


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bench") / "out"
    made_orbench.make(Store(str(out)), SMALL)
    return out


def scenes(recipe: PeopleRecipe) -> list[Scene]:
    people = People(recipe)
    return [people.scene(i, k) for i in range(recipe.identities) for k in range(recipe.images)]


def test_the_same_recipe_gives_the_same_bytes(pedes: Path, tmp_path: Path):
    made_cuhk_pedes.make(Store(str(tmp_path / "again")), SMALL)
    assert tree(pedes) == tree(tmp_path / "again")
    made_cuhk_pedes.make(Store(str(tmp_path / "other")), PeopleRecipe(identities=20, images=3, changed=0.4, seed=6))
    assert tree(pedes) != tree(tmp_path / "other")


def test_a_picture_depends_on_seed_identity_and_number_alone(pedes: Path, tmp_path: Path):
    more = PeopleRecipe(identities=25, images=4, changed=0.4, seed=5)
    made_cuhk_pedes.make(Store(str(tmp_path)), more)
    few, many = tree(pedes / "imgs"), tree(tmp_path / "imgs")
    assert few.items() <= many.items()
    data = [cuhk_pedes.PersonText(Store(str(root))) for root in (pedes, tmp_path)]
    captions = [{text for split in cuhk_pedes.SPLITS for text in d.captions(split)["text"].to_pylist()} for d in data]
    assert captions[0] <= captions[1]


def test_both_layouts_are_sound_and_split_by_identity(pedes: Path, bench: Path):
    for module, root in ((cuhk_pedes, pedes), (orbench, bench)):
        assert module.check(Store(str(root))).problems == []
    data = cuhk_pedes.PersonText(Store(str(pedes)))
    identities = {split: set(data.images(split)["identity"].to_pylist()) for split in cuhk_pedes.SPLITS}
    assert {split: len(ids) for split, ids in identities.items()} == {
        "train": 12,
        "calibration": 2,
        "validation": 2,
        "test": 4,
    }
    omni = orbench.Orbench(Store(str(bench)))
    for split, ids in identities.items():
        assert set(omni.samples(split)["identity"].to_pylist()) == ids
        assert Counter(omni.samples(split)["modality"].to_pylist()) == {
            **dict.fromkeys(IMAGE_MODALITIES, 3 * len(ids)),
            "text": 6 * len(ids),
        }
    assert PeopleRecipe().identities * 0.2 >= 100, "enough to test on"


@pytest.mark.parametrize("name", ["ICFG-PEDES.json", "data_captions.json"])
def test_relatives_of_cuhk_pedes_are_made_too(name: str, tmp_path: Path):
    made_cuhk_pedes.make(Store(str(tmp_path)), PeopleRecipe(identities=10, images=1), annotations=name)
    data = cuhk_pedes.PersonText(Store(str(tmp_path)))
    assert data.annotations == name
    assert data.images("test")["camera"].to_pylist() == [0, 1]


def test_object_storage_holds_them_as_well_as_a_folder(s3: str):
    recipe = PeopleRecipe(identities=10, images=1)
    for name, make, module in (("c", made_cuhk_pedes.make, cuhk_pedes), ("o", made_orbench.make, orbench)):
        store = Store(f"{s3}/people/{name}")
        make(store, recipe)
        findings = module.check(store)
        assert findings.problems == []
        assert findings.counts["identities"] == 10


def test_true_factors_of_every_picture_are_kept(pedes: Path, bench: Path):
    for root, count in ((pedes, 60), (bench, 240)):
        table = factors(Store(str(root)))
        assert table.num_rows == count
        assert set(table["top_colour"].to_pylist()) <= set(COLOURS)
        assert all((root / path).exists() for path in table["path"].to_pylist())
    data = cuhk_pedes.PersonText(Store(str(pedes)))
    true = {row["path"]: row for row in factors(Store(str(pedes))).to_pylist()}
    for row in data.images("train").to_pylist():
        assert true[row["path"]]["identity"] == row["identity"]
        assert true[row["path"]]["camera"] == row["camera"]


def test_an_identity_keeps_its_traits_and_usually_its_clothes():
    drawn = scenes(PeopleRecipe(identities=120, images=4, changed=0.25))
    usual = {s.identity: s.clothes for s in drawn if s.outfit == 0}
    share = np.mean([s.clothes != usual[s.identity] for s in drawn if s.identity in usual])
    assert 0.18 < share < 0.32
    for identity in range(120):
        assert len({s.person for s in drawn if s.identity == identity}) == 1
    assert {s.outfit for s in scenes(PeopleRecipe(identities=30, changed=0.0))} == {0}
    assert {s.outfit for s in scenes(PeopleRecipe(identities=30, changed=1.0))} == {1, 2}


def test_clothes_say_nothing_about_identity_but_by_habit():
    """Of 1500 people, top colour and each trait are independent: Cramer's V near what chance gives."""
    drawn = scenes(PeopleRecipe(identities=1500, images=1, changed=0.0))
    colours = [s.clothes.top_colour for s in drawn]
    for trait in ("gender", "build", "hair_colour", "skin", "gait"):
        values = [getattr(s.person, trait) for s in drawn]
        rows, columns = sorted(set(colours)), sorted(set(values))
        count = np.zeros((len(rows), len(columns)))
        for colour, value in zip(colours, values, strict=True):
            count[rows.index(colour), columns.index(value)] += 1
        expected = count.sum(1, keepdims=True) * count.sum(0) / count.sum()
        chi2 = ((count - expected) ** 2 / expected).sum()
        assert chi2 / (len(drawn) * (min(count.shape) - 1)) < 0.02, trait


def mean_colour(people: People, scene: Scene, modality: str) -> NDArray[np.float64]:
    picture = people.picture(scene, modality).astype(float)
    return picture[26:44, 18:30].reshape(-1, *picture.shape[2:]).mean(0)


def test_modalities_show_what_they_can():
    people = People(PeopleRecipe())
    drawn = [s for s in scenes(PeopleRecipe(identities=150, images=1)) if s.clothes.pattern == "plain"]
    for modality, channels in (("vis", (3,)), ("nir", ()), ("sk", ()), ("cp", (3,))):
        picture = people.picture(drawn[0], modality)
        assert picture.shape == (96, 48, *channels)
        assert picture.dtype == np.uint8

    def mean_over(modality: str, **wanted: str) -> NDArray[np.float64]:
        chosen = [s for s in drawn if all(getattr(s.clothes, k) == v for k, v in wanted.items())]
        return np.mean([mean_colour(people, s, modality) for s in chosen], axis=0)

    # colour shows in RGB and in pencil
    for modality in ("vis", "cp"):
        red, blue = mean_over(modality, top_colour="red"), mean_over(modality, top_colour="blue")
        assert red[0] - red[2] > blue[0] - blue[2] + 80
    # near infrared sees the cloth, not its dye: red and blue differ less than a shirt and a jacket
    dye = abs(mean_over("nir", top_colour="red") - mean_over("nir", top_colour="blue"))
    assert dye < mean_over("nir", top="shirt") - mean_over("nir", top="jacket")
    # drawings are on white paper
    for modality in ("sk", "cp"):
        assert np.median(people.picture(drawn[0], modality)[:, :6]) > 235


def test_no_picture_of_one_modality_is_another_ones_twin(bench: Path):
    """Every modality of an identity shows scenes of its own, so that no query is drawn from a gallery picture."""
    table = factors(Store(str(bench))).to_pylist()
    shown = [(row["identity"], row["image"]) for row in table]
    assert len(set(shown)) == len(shown)


def test_captions_are_parted_into_what_they_were_made_of():
    people = People(PeopleRecipe())
    for scene in scenes(PeopleRecipe(identities=150, images=1)):
        for text in people.captions(scene):
            identity, clothing = split_caption(text)
            assert re.search(r"hair|bob|bun|ponytail|head|skin|face|beard|m(o)?ustache", identity), text
            assert not re.search(r"hair|skin|face|beard|stride|stoop|tall", clothing), text
            words = {"grey": "gr[ea]y", "purple": "purple|violet"}.get(
                scene.clothes.top_colour, scene.clothes.top_colour
            )
            assert re.search(words, clothing), text
            clothes = (
                "shirt|top|sweater|jumper|pullover|hood|jacket|coat|trousers|jeans|shorts|skirt|shoes|bag|backpack"
            )
            assert not re.search(clothes, identity), text


def test_captions_vary_and_leave_things_out():
    people = People(PeopleRecipe(captions=40))
    scene = people.scene(0, 0)
    captions = people.captions(scene)
    assert len(set(captions)) == 40
    hits = sum(bool(re.search(r"skin", text)) for text in captions)
    assert 10 < hits < 40, "mentioned often, not always"
    assert len({text.split()[0] + text.split()[1] for text in captions}) > 3


def test_a_person_can_be_told_by_shape_and_colour_of_head_and_body():
    """Identity shows: among 40 people, the nearest other picture from the same camera, clothes changed, of
    the head's colours alone, is of the same person far more often than chance (1 in 40)."""
    recipe = PeopleRecipe(cameras=1, changed=1.0, images=4)
    people = People(recipe)
    heads, owners = [], []
    for identity in range(40):
        for number in range(4):
            picture = people.picture(people.scene(identity, number), "vis").astype(float)
            heads.append(np.asarray(Image.fromarray(picture[:30, 12:36].astype(np.uint8)).resize((6, 8))).ravel())
            owners.append(identity)
    head_N, owner_N = np.stack(heads).astype(float), np.array(owners)
    distance_NN = ((head_N[:, None] - head_N[None]) ** 2).sum(-1)
    np.fill_diagonal(distance_NN, np.inf)
    assert (owner_N[distance_NN.argmin(1)] == owner_N).mean() > 0.25


def test_rendering_is_fast_enough_to_make_data_while_one_waits():
    people = People(PeopleRecipe())
    start = time.process_time()
    for number in range(100):
        people.picture(people.scene(number // 4, number % 4), IMAGE_MODALITIES[number % 4])
    assert 100 / (time.process_time() - start) > 100, "a third of what an idle core does"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"identities": 9}, "identities must be >= 10, got 9"),
        ({"images": 0}, "images must be >= 1, got 0"),
        ({"height": 8}, "height must be >= 32, got 8"),
        ({"changed": 1.5}, r"changed must be in 0\.\.1, got 1.5"),
    ],
)
def test_a_recipe_that_can_not_be_is_refused(fields: dict[str, float], message: str):
    with pytest.raises(InputError, match=message):
        PeopleRecipe(**fields)


def test_a_folder_that_holds_something_is_not_written_to(pedes: Path):
    before = tree(pedes)
    for make in (made_cuhk_pedes.make, made_orbench.make):
        with pytest.raises(InputError, match="must be empty or new"):
            make(Store(str(pedes)), SMALL)
    assert tree(pedes) == before
