"""What `t2i_reid` is trained on: captions with their own pictures, two people a batch, unmatched clothes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from refsweep.datasets.problems import DataError
from refsweep.tests.trainables.people import make_task, write_people
from refsweep.trainables.t2i_reid.data import mixed_batches
from refsweep.trainables.t2i_reid.texts import AlikeTexts, TextTable
from refsweep.trainables.towers.text import FoldedWords

pytestmark = pytest.mark.usefixtures("one_thread")


def test_every_caption_is_trained_on_with_its_own_picture(people: Path):
    """Not repeated: one caption an identity, the last item winning."""
    task = make_task(people)
    plan = task.plan("train", 0, 0)
    wanted = {
        (f"imgs/{item['file_path']}", text)
        for item in json.loads((people / "caption_all.json").read_text())
        if item["split"] == "train"
        for text in item["captions"]
    }
    said = [task.texts.texts[n] for n in plan.column("caption").to_pylist()]
    assert set(zip(plan.column("path").to_pylist(), said, strict=True)) == wanted
    assert plan.num_rows - len(wanted) <= 1


def test_a_row_has_the_parts_of_its_caption(people: Path):
    task = make_task(people)
    texts = task.texts.texts
    for row in task.plan("train", 0, 0).slice(0, 6).to_pylist():
        clothing, identity = texts[row["clothing_text"]], texts[row["identity_text"]]
        assert "hair" in identity
        assert "hair" not in clothing
        assert any(c in clothing for c in ("red", "green", "blue", "white"))
        assert not any(c in identity for c in ("red", "green", "blue", "white"))


def test_plans_follow_from_seed_and_epoch(people: Path):
    task = make_task(people)
    assert task.plan("train", 1, 5).equals(make_task(people).plan("train", 1, 5))
    assert not task.plan("train", 1, 5).equals(task.plan("train", 2, 5))


def test_unmatched_captions_are_of_other_people_and_never_the_same_words(people: Path):
    task = make_task(people, unmatched=1.0, hard_pool=8)
    plan = task.plan("train", 0, 0)
    other, label = plan.column("other_text").to_numpy(), plan.column("other_label").to_numpy()
    there = other >= 0
    assert there.mean() > 0.9
    assert (label[there] != plan.column("label").to_numpy()[there]).all()
    assert (other[there] != plan.column("clothing_text").to_numpy()[there]).all()
    assert (np.array(make_task(people, unmatched=0.0).plan("train", 0, 0).column("other_text")) == -1).all()


def test_the_most_alike_of_a_pool_is_harder_than_a_random_one():
    texts = [f"a {top} shirt and {legs} shorts" for top in ("red", "blue", "grey") for legs in ("red", "blue", "grey")]
    alike, person = AlikeTexts(texts), np.arange(9)
    rng = np.random.default_rng(0)
    text_N = np.repeat(np.arange(9), 50)
    mean = {}
    for pool in (1, 16):
        found = alike.hardest(text_N, text_N, person, pool, rng)
        drawn = found >= 0
        assert (found[drawn] != text_N[drawn]).all()
        mean[pool] = alike.cosine(text_N[drawn], found[drawn]).mean()
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


def test_rows_of_a_person_come_together_where_asked(people: Path):
    label = np.array(make_task(people, per_identity=4, batch=8).plan("train", 0, 0).column("label"))
    assert (label.reshape(-1, 4) == label.reshape(-1, 4)[:, :1]).all()
    assert all(len(set(batch.tolist())) == 2 for batch in label[: len(label) // 8 * 8].reshape(-1, 8))


def test_training_data_of_one_person_is_refused_with_the_rule(tmp_path: Path):
    write_people(tmp_path, train=1)
    with pytest.raises(DataError, match=r"at least two identities.* got 1"):
        make_task(tmp_path).plan("train", 0, 0)


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


def test_what_was_cut_is_said_of_a_trained_model(people: Path):
    task = make_task(people, max_tokens=6)
    task.plan("train", 0, 0)
    assert task.facts()["counts"]["captions_cut"] > 10
