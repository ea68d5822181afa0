"""What `t2i_reid` is trained on: captions with their own pictures, two people a batch, unmatched clothes."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from refsweep.datasets.problems import DataError
from refsweep.tests.trainables.t2i_reid.case import write_people
from refsweep.tests.trainables.tools import Family
from refsweep.trainables.t2i_reid.alike import AlikeTexts
from refsweep.trainables.t2i_reid.data import mixed_batches
from refsweep.trainables.t2i_reid.texts import TextTable
from refsweep.trainables.towers.text import FoldedWords

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def family(family_of: Callable[[str], Family]) -> Family:
    return family_of("t2i_reid")


def test_every_caption_is_trained_on_with_its_own_picture(family: Family):
    """Not repeated: one caption an identity, the last item winning."""
    task = family.task()
    plan = task.plan("train", 0, 0)
    wanted = {
        (f"imgs/{item['file_path']}", text)
        for item in json.loads((family.folder / "caption_all.json").read_text())
        if item["split"] == "train"
        for text in item["captions"]
    }
    captions = [task.texts.text(n) for n in plan.column("caption").to_pylist()]
    assert set(zip(plan.column("path").to_pylist(), captions, strict=True)) == wanted
    assert plan.num_rows - len(wanted) <= 1


def test_a_row_has_the_parts_of_its_caption(family: Family):
    task = family.task()
    for row in task.plan("train", 0, 0).slice(0, 6).to_pylist():
        clothing, identity = (task.texts.text(row[name]) for name in ("clothing_text", "identity_text"))
        assert "hair" in identity
        assert "hair" not in clothing
        assert any(c in clothing for c in ("red", "green", "blue", "white"))
        assert not any(c in identity for c in ("red", "green", "blue", "white"))


def test_unmatched_captions_are_of_other_people_and_never_the_same_words(family: Family):
    task = family.task(unmatched=1.0, hard_pool=8)
    plan = task.plan("train", 0, 0)
    other, label = plan.column("other_text").to_numpy(), plan.column("other_label").to_numpy()
    there = other >= 0
    assert there.mean() > 0.9
    assert (label[there] != plan.column("label").to_numpy()[there]).all()
    assert (other[there] != plan.column("clothing_text").to_numpy()[there]).all()
    assert (np.array(family.task(unmatched=0.0).plan("train", 0, 0).column("other_text")) == -1).all()


def test_the_most_alike_of_a_pool_is_harder_than_a_random_one():
    texts = [f"a {top} shirt and {legs} shorts" for top in ("red", "blue", "grey") for legs in ("red", "blue", "grey")]
    alike, person = AlikeTexts(texts), np.arange(9)
    rng = np.random.default_rng(0)
    text_N = np.repeat(np.arange(9), 50)
    mean = {}
    for pool in (1, 16):
        other_N = alike.hardest(text_N, text_N, person, pool, rng)
        drawn = other_N >= 0
        assert (other_N[drawn] != text_N[drawn]).all()
        mean[pool] = alike.cosine(text_N[drawn], other_N[drawn]).mean()
    assert mean[16] > mean[1] + 0.1
    assert alike.cosine(np.arange(9), np.arange(9)) == pytest.approx(1)


@pytest.mark.parametrize("people_of", [[0, 1], [0] * 9 + [1], [0] * 50 + [1, 2, 2], [0, 0, 0, 1, 1, 1, 2], [0, 1, 1]])
@pytest.mark.parametrize("size", [2, 3, 8])
def test_every_batch_has_two_people_and_nobody_is_lost(people_of: list[int], size: int):
    for seed in range(20):
        order = mixed_batches(people_of, size, np.random.default_rng(seed))
        assert set(order) == set(range(len(people_of)))
        for start in range(0, len(order), size):
            assert len({people_of[i] for i in order[start : start + size]}) >= 2


def test_rows_of_a_person_come_together_where_asked(family: Family):
    label = np.array(family.task(per_identity=4, batch=8).plan("train", 0, 0).column("label"))
    assert (label.reshape(-1, 4) == label.reshape(-1, 4)[:, :1]).all()
    assert all(len(set(batch.tolist())) == 2 for batch in label[: len(label) // 8 * 8].reshape(-1, 8))


def test_training_data_of_one_person_is_refused_with_the_rule(family: Family, tmp_path: Path):
    write_people(tmp_path, train=1)
    with pytest.raises(DataError, match=r"at least two identities.* got 1"):
        dataclasses.replace(family, folder=tmp_path).task().plan("train", 0, 0)


def test_a_text_has_the_same_number_whichever_split_is_read_first():
    one, other = TextTable(FoldedWords(2040), 8), TextTable(FoldedWords(2040), 8)
    first = one.add(["a man"]), one.add(["a woman", "a man"], "test")
    second = other.add(["a woman", "a man"], "test"), other.add(["a man"])
    assert [n.tolist() for n in first] == [n.tolist() for n in reversed(second)]
    assert one.text(first[1][0]) == "a woman"
    assert one.ids(first[0]).equal(one.ids(first[1][1:]))


def test_captions_over_the_limit_are_cut_and_counted():
    words = FoldedWords(2040)
    short, long = "a man", "a man " * 30
    table = TextTable(words, 8)
    numbers = table.add([short, long, short])
    assert numbers.tolist() == [0, 1, 0]
    assert table.too_long == 1
    ids = table.ids(numbers)
    assert ids.shape == (3, 8)
    assert ids[0].tolist() == [*words.encode([short])[0], 0, 0, 0, 0]
    assert ids[1, -1] == words.encode([long])[0][-1], "the end mark is kept"
    assert ids[1, :-1].tolist() == words.encode([long])[0][:7]


def test_what_was_cut_is_said_of_a_trained_model(family: Family):
    task = family.task(max_tokens=6)
    task.plan("train", 0, 0)
    assert task.facts()["counts"]["captions_cut"] > 10
