"""P x K batches: who is in them, in which modalities, and what can't be."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pytest
from refsweep.datasets.problems import DataError
from refsweep.trainables.mm_reid import Config
from refsweep.trainables.mm_reid.config import MODALITIES
from refsweep.trainables.mm_reid.data import Pools, draw


def samples(counts: Mapping[int, Mapping[str, int]]) -> pa.Table:
    """So many samples of each identity in each modality."""
    rows = [(m, i) for i, of in counts.items() for m, count in of.items() for _ in range(count)]
    return pa.table({"modality": [m for m, _ in rows], "identity": pa.array([i for _, i in rows], pa.int64())})


FULL = dict.fromkeys(MODALITIES, 3)
MANY = samples(dict.fromkeys(range(11), FULL) | {50: {"vis": 1, "text": 5}, 51: {"vis": 9, "sk": 1}})


def drawn(
    table: pa.Table, seed: int = 0, identities: int = 8, rows: int = 4, **changed: object
) -> tuple[Pools, np.ndarray, np.ndarray]:
    """Pools, and the labels and samples of an epoch of batches of so many identities with so many rows each."""
    pools, config = Pools(table), Config(batch=identities * rows, per_identity=rows, **changed)
    return (pools, *draw(pools, config, np.random.default_rng(seed)))


@pytest.mark.parametrize("dropout", [0.0, 0.3, 0.95])
def test_every_identity_of_every_batch_has_vis_and_something_else(dropout: float):
    for seed in range(20):
        _, label, sample_RM = drawn(MANY, seed, identities=4, rows=3, modality_dropout=dropout)
        assert len(label) % 12 == 0
        for start in range(0, len(label), 12):
            batch = label[start : start + 12]
            assert [np.sum(batch == i) for i in np.unique(batch)] == [3, 3, 3, 3]
            for identity in np.unique(batch):
                own = sample_RM[start : start + 12][batch == identity] >= 0
                assert own[:, 0].any()
                assert own[:, 1:].any()


def test_a_row_holds_samples_of_its_identity_and_modality_only():
    pools, label, sample_RM = drawn(MANY, identities=4, rows=3)
    modality, identity = MANY.column("modality").to_pylist(), MANY.column("identity").to_pylist()
    seen = set()
    for person, row in zip(label, sample_RM, strict=True):
        for number, sample in enumerate(row):
            if sample >= 0:
                assert (modality[sample], identity[sample]) == (MODALITIES[number], pools.identities[person])
                seen.add(int(sample))
    assert len(seen) > 40


def test_an_epoch_visits_every_identity_as_often_as_asked_and_fills_the_last_batch():
    pools, label, _ = drawn(MANY, identities=4, rows=2, visits=2)
    visits = np.bincount(label, minlength=len(pools)) / 2
    assert visits.min() >= 2
    assert visits.sum() == 2 * 16  # 13 identities and 3 drawn again, twice


def test_samples_come_again_only_when_all_were_used():
    _, label, sample_RM = drawn(samples({1: FULL, 2: FULL}), identities=2, rows=6, modality_dropout=0.0)
    for person in (0, 1):
        for column in sample_RM[label == person].T:
            assert sorted(np.bincount(column)[np.unique(column)]) == [2, 2, 2]


@pytest.mark.parametrize("least", [1, 2, 3])
def test_modality_dropout_leaves_at_least_so_many_or_all_there_are(least: int):
    pools, label, sample_RM = drawn(MANY, identities=4, rows=4, modality_dropout=0.9, min_modalities=least)
    there = (sample_RM >= 0).sum(1)
    has = np.array([sum(len(pool) > 0 for pool in rows) for rows in pools.rows])[label]
    assert (there >= np.minimum(least, has)).all()
    assert there.mean() < 3.5
    _, _, everything = drawn(MANY, identities=4, rows=4, modality_dropout=0.0)
    assert (everything >= 0).sum() > 1.5 * (sample_RM >= 0).sum()


def test_identities_that_can_not_be_paired_are_left_out_and_counted():
    pools = Pools(samples({1: FULL, 2: FULL, 3: {"vis": 4}, 4: {"nir": 2, "text": 1}}))
    assert pools.identities == [1, 2]
    assert pools.unpaired == 2
    pools.check()


def test_fewer_than_two_identities_are_refused_with_what_is_missing():
    with pytest.raises(DataError, match="needs 2 identities with vis and another modality, got 1; 1 have only one"):
        Pools(samples({1: FULL, 2: {"vis": 3}})).check()


def test_fewer_identities_than_p_make_smaller_batches():
    _, label, _ = drawn(samples({1: FULL, 2: FULL, 3: FULL}), identities=8, rows=4)
    assert sorted(label.tolist()) == [0] * 4 + [1] * 4 + [2] * 4


def test_the_generator_decides():
    one, two, other = (drawn(MANY, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one[2], two[2])
    assert not np.array_equal(one[2], other[2])
