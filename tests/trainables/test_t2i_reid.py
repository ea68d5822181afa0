"""`t2i_reid` as a task: what it is trained on, what it is measured by, and that it stops and goes on bit for bit."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from refsweep.datasets.problems import DataError, InputError
from refsweep.datasets.store import Store
from refsweep.datasets.stream import Arrays, cut
from refsweep.tests.trainables.people import write_people
from refsweep.trainables import t2i_reid
from refsweep.trainables.checkpoints import Checkpoints
from refsweep.trainables.loop import Stopped, Training
from refsweep.trainables.package import Package
from refsweep.trainables.person.objective import LOSSES
from refsweep.trainables.person.plans import mixed_batches
from refsweep.trainables.person.texts import AlikeTexts, TextTable
from refsweep.trainables.reid.evaluation import choose, similarities
from refsweep.trainables.towers.text import FoldedWords
from torch import Tensor

from .test_loop import equal

SMALL: dict[str, Any] = {
    "tower": "conv-tiny",
    "weights": None,
    "text_tower": "bert-tiny",
    "text_weights": None,
    "height_px": 32,
    "width_px": 16,
    "max_tokens": 40,
    "shared_dim": 16,
    "embed_dim": 16,
    "fusion_heads": 2,
    "fusion_top": 5,
    "epochs": 2,
    "batch": 16,
    "lr": 1e-3,
    "score_batch": 7,
    "rerank_k1": (4,),
    "rerank_k2": (2,),
    "query": "identity",
}


def config(**changed: Any) -> t2i_reid.Config:
    return t2i_reid.Config(**{**SMALL, **changed})


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("people")
    write_people(folder)
    return folder


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that share tensors this small only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make_task(folder: Path, **changed: Any) -> t2i_reid.Task:
    torch.manual_seed(0)
    return t2i_reid.Task(config(**changed), t2i_reid.open_data(Store(str(folder))))


def read(task: t2i_reid.Task, rows: pa.Table) -> dict[str, Tensor]:
    return {name: torch.as_tensor(array) for name, array in task.read(rows, task.data.store).items()}


def predicted(task: t2i_reid.Task, split: str, size: int | None = None) -> Arrays:
    task.model.eval()
    predict, plan = task.predictor(), task.plan(split, 0, 0)
    found = [
        predict(task.read(part.rows, task.data.store)) for part in cut(plan, size or task.config.score_batch, 0, split)
    ]
    return {name: np.concatenate([f[name] for f in found]) for name in found[0]}


def train(
    settings: t2i_reid.Config, folder: Path | None, people: Path, stop_after: int | None = None, attempt: int = 1
):
    """Trains to the end, or until so many batches are done."""
    store = Store(str(people))
    checkpoints = Checkpoints(Store(str(folder))) if folder else None
    training = Training(
        lambda: t2i_reid.Task(settings, t2i_reid.open_data(store)),
        settings,
        store,
        checkpoints,
        attempt=attempt,
        workers=2,
    )
    training.resume()
    asked = iter(range(1, 10_000))
    try:
        for _ in training.run(lambda: next(asked) == stop_after):
            pass
    except Stopped:
        pass
    return training


@pytest.mark.parametrize(
    "changed",
    [
        {"fusion": "tokens", "erase": 0.5, "ema": 0.9},
        {"fusion": "pooled", "per_identity": 2, "tower": "vit-tiny", "accumulate": 2, "decouple_kind": "hsic"},
    ],
)
def test_stopped_after_any_batch_and_resumed_equals_uninterrupted(changed: Any, people: Path, tmp_path: Path):
    settings = config(**changed)
    whole = train(settings, None, people)
    batches = settings.epochs * whole._steps_an_epoch()
    assert batches >= 6
    for stopped in range(1, batches + 1, 1 if "ema" in changed else 3):
        folder = tmp_path / str(stopped)
        first = train(settings, folder, people, stop_after=stopped)
        assert (first.epoch, first.batch) != (settings.epochs, 0)
        assert equal(train(settings, folder, people, attempt=2), whole), f"stopped after batch {stopped}"


def test_the_mean_loss_falls(people: Path):
    history = train(config(epochs=6, fusion="pooled"), None, people).history
    for loss in ("info_nce", "cls", "fuse"):
        assert history[-1].metrics[f"train_{loss}"] < history[0].metrics[f"train_{loss}"]


# --- what it is trained on


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


# --- losses


def terms_of(task: t2i_reid.Task, rows: int = 12, progress: float = 0.5) -> dict[str, Tensor]:
    torch.manual_seed(1)
    task.model.train()
    return task.losses(read(task, task.plan("train", 0, 0).slice(0, rows)), progress)


def test_the_losses_own_projectors_reach_the_optimiser_and_learn(people: Path):
    """Not repeated: projectors that are made by the losses and left where they started."""
    training = train(config(fusion="tokens"), None, people)
    task = make_task(people, fusion="tokens")
    given = {id(p) for group in training.task.param_groups() for p in group["params"]}
    assert given == {id(p) for p in training.task.model.parameters()}
    before, after = task.model.state_dict(), training.task.model.state_dict()
    for name in ("bio_projector", "cloth_projector", "decouple_id", "decouple_cloth", "match", "patch_projection"):
        assert not torch.equal(before[f"{name}.weight"], after[f"{name}.weight"]), name


def test_every_loss_has_its_weight(people: Path):
    ones = dict.fromkeys(LOSSES, 1.0)
    plain = terms_of(make_task(people, fusion="pooled", **ones))
    assert set(plain) == set(LOSSES)
    for loss in LOSSES:
        weighted = terms_of(make_task(people, fusion="pooled", **{**ones, loss: 0.25}))
        assert weighted[loss].item() == pytest.approx(0.25 * plain[loss].item(), rel=1e-4)
        without = terms_of(make_task(people, fusion="pooled", **{**ones, loss: 0.0}))
        assert set(without) == set(LOSSES) - {loss}


def test_the_adversarys_weight_grows_as_published(people: Path):
    task = make_task(people, epochs=80, cloth_adv=0.5)
    for epoch in (0, 3, 16, 40):
        assert task.objective.weight("cloth_adv", epoch / 80) == pytest.approx(0.5 * min(1, 0.2 + 0.05 * epoch))
        assert task.objective.alpha(epoch / 80) == pytest.approx(min(1, 0.1 + 0.02 * epoch))


def test_the_reversed_adversary_teaches_its_projector_and_moves_the_identity_feature_the_other_way(people: Path):
    alone = {**dict.fromkeys(LOSSES, 0.0), "cloth_adv": 1.0, "cloth_adv_kind": "reversal", "cloth_adv_until": 1e-6}
    task = make_task(people, **alone, dropout=0.0)
    rows = task.plan("train", 0, 0).slice(0, 12)
    optimiser = torch.optim.SGD(task.model.adversary.parameters(), lr=0.5)
    before = terms_of(task)["cloth_adv"].item()
    for _ in range(20):
        optimiser.zero_grad()
        task.losses(read(task, rows), 0.5)["cloth_adv"].backward()
        optimiser.step()
    learned = task.losses(read(task, rows), 0.5)["cloth_adv"].item()
    assert learned < before - 0.05
    optimiser = torch.optim.SGD(task.model.id_projection.parameters(), lr=0.5)
    optimiser.zero_grad()
    task.losses(read(task, rows), 0.5)["cloth_adv"].backward()
    optimiser.step()
    assert task.losses(read(task, rows), 0.5)["cloth_adv"].item() > learned


@pytest.mark.parametrize("fusion", ["pooled", "tokens"])
def test_fusion_has_a_loss_that_trains_it(fusion: str, people: Path):
    """Not repeated: fused features that enter no loss, yet evaluation ranks by them."""
    task = make_task(people, fusion=fusion)
    terms_of(task)["fuse"].backward()
    gradients = {name: p.grad for name, p in task.model.named_parameters() if p.grad is not None}
    fused = {name.removeprefix("fusion."): g for name, g in gradients.items() if name.startswith("fusion.")}
    assert len(fused) == len(list(task.model.fusion.parameters()))
    trained = ["out.weight", "gate.0.weight", "image_attends.out_proj.weight", "text_attends.out_proj.weight", "scale"]
    assert all(fused[name].abs().max() > 0 for name in trained)
    asking = fused["text_attends.in_proj_weight"][: task.config.embed_dim]
    assert (asking.abs().max() > 0) == (fusion == "tokens"), "over one token there is nothing to ask for"
    assert gradients["image_tower.body.body.0.weight"].abs().max() > 0


def test_fused_similarities_without_their_loss_are_not_ranked_by(people: Path):
    task = make_task(people, fusion="pooled", fuse=0.0)
    assert task.retrieval("validation", predicted(task, "validation")).bonus_QG is None


def clothing_gradients(folder: Path, alpha: float) -> dict[str, Tensor]:
    alone = {**dict.fromkeys(LOSSES, 0.0), "cloth": 1.0}
    task = make_task(folder, **alone, grl_alpha=alpha, grl_schedule="constant", dropout=0.0)
    terms_of(task)["cloth"].backward()
    return {name: p.grad for name, p in task.model.named_parameters() if p.grad is not None}


def test_the_clothing_loss_reaches_the_trunk_reversed_and_the_heads_as_it_is(people: Path):
    weak, strong, none = (clothing_gradients(people, alpha) for alpha in (0.5, 1.0, 0.0))
    for trunk in ("cloth_projection.weight", "image_tower.body.body.0.weight"):
        torch.testing.assert_close(strong[trunk], 2 * weak[trunk])
        assert none[trunk].abs().max() == 0
        assert strong[trunk].abs().max() > 0
    torch.testing.assert_close(strong["cloth_projector.weight"], none["cloth_projector.weight"])


def test_each_text_is_encoded_once_and_gives_the_same_losses_in_any_order(people: Path):
    task = make_task(people, dropout=0.0)
    task.model.eval()
    batch = read(task, task.plan("train", 0, 0).slice(0, 10))
    other = {name: value.flip(0) for name, value in batch.items()}
    one, two = (task.losses(b, 0.3) for b in (batch, other))
    for loss in one:
        torch.testing.assert_close(one[loss], two[loss])


# --- what it is measured by


def test_predictions_do_not_depend_on_how_the_plan_is_cut(people: Path):
    task = make_task(people, fusion="tokens")
    whole = predicted(task, "validation", 1000)
    for size in (1, 5):
        found = predicted(task, "validation", size)
        for name in whole:
            np.testing.assert_allclose(found[name].astype(float), whole[name].astype(float), atol=2e-3)
    assert sum(task.stretches("validation")) == task.plan("validation", 0, 0).num_rows


@pytest.mark.parametrize(("query", "count"), [("identity", 24), ("caption", 24), ("clothing", 24)])
def test_queries_are_texts_and_the_gallery_is_every_picture(query: str, count: int, people: Path):
    """Not repeated: a private split in which queries are pictures with captions too."""
    task = make_task(people, query=query)
    plan = task.plan("validation", 0, 0).to_pylist()
    pictures, queries = ([row for row in plan if (row["text"] >= 0) == text] for text in (False, True))
    assert [row["path"] for row in pictures] == task.data.images("validation").column("path").to_pylist()
    assert len(queries) == count
    assert all(row["path"] == "" for row in queries)


def perfect(task: t2i_reid.Task, split: str) -> Arrays:
    """Features that tell people apart, in the order of the plan."""
    identity = task.data.images(split).column("identity").to_numpy()
    asked = identity[task.queries(split).column("image").to_numpy()]
    who = np.concatenate([identity, asked])
    feature = (who[:, None] == np.unique(identity)).astype(np.float32)
    is_text = np.arange(len(who)) >= len(identity)
    return {"feature": feature, "is_text": is_text, "cosine": np.where(is_text, np.nan, 0.25).astype(np.float32)}


def test_figures_are_in_percent_and_nothing_is_multiplied(people: Path):
    """Not repeated: mAP x 2 and Rank-1/5/10 x 1.8/1.5/1.5."""
    task = make_task(people)
    found = {split: perfect(task, split) for split in task.eval_splits}
    scores = task.evaluate(found)
    assert set(scores.metrics) == set(t2i_reid.METRICS)
    assert {scores.metrics[m] for m in ("rank1", "rank5", "rank10", "map", "map100", "minp")} == {100.0}
    assert scores.metrics["feature_cosine"] == pytest.approx(25)
    # one picture of another person in front of the right ones of every query: rank 1 is 0, the mean over 3 is known
    validation = found["validation"]
    identity = task.data.images("validation").column("identity").to_numpy()
    wide = np.zeros((len(validation["feature"]), 5), np.float32)
    wide[:, :4] = validation["feature"] * 0.6
    wide[:, 4] = 0.8 * validation["is_text"]
    first = np.flatnonzero(identity == identity[0])[0]
    wide[np.arange(len(identity)), 4], wide[first, 4] = 0, 0.8
    wide[: len(identity)] /= np.linalg.norm(wide[: len(identity)], axis=1, keepdims=True)
    found["validation"] = {**validation, "feature": wide}
    figures = task.evaluate({"validation": found["validation"]}, {}).metrics
    # 18 of 24 queries are of the other three people: right at places 2, 3 and 4
    expected = (18 * np.mean([1 / 2, 2 / 3, 3 / 4]) + 6 * 1) / 24
    assert figures["rank1"] == pytest.approx(25)
    assert figures["map"] == pytest.approx(100 * expected)


def test_the_setting_is_chosen_on_calibration_only_and_a_given_one_is_used(people: Path):
    task = make_task(people)
    rng = np.random.default_rng(0)

    def noisy(split: str, seed: int) -> Arrays:
        found = perfect(task, split)
        wild = found["feature"] + np.random.default_rng(seed).normal(0, 0.9, found["feature"].shape)
        return {**found, "feature": (wild / np.linalg.norm(wild, axis=1, keepdims=True)).astype(np.float32)}

    chosen = set()
    for seed in rng.integers(1000, size=8).tolist():
        calibration = noisy("calibration", seed)
        one, two = (task.evaluate({"calibration": calibration, "validation": noisy("validation", s)}) for s in (1, 2))
        assert one.setting == two.setting
        assert one.metrics != two.metrics
        chosen.add(tuple(sorted(one.setting.items())))
        again = task.evaluate({"validation": noisy("validation", 1)}, one.setting)
        assert again.metrics == one.metrics
    assert len(chosen) > 1


def test_the_last_figures_are_those_of_the_last_weights(people: Path):
    """Not repeated: a gallery whose features are kept from the first evaluation."""
    training = train(config(epochs=3, lr=5e-3), None, people)
    fresh = make_task(people)
    fresh.model.load_state_dict(training.task.model.state_dict())
    found = {split: predicted(fresh, split) for split in fresh.eval_splits}
    last = training.history[-1]
    again = fresh.evaluate(found)
    assert again.setting == last.setting
    for name in t2i_reid.METRICS:
        assert last.metrics[name] == pytest.approx(again.metrics[name], abs=1e-3)
    assert len({r.metrics["feature_cosine"] for r in training.history}) == 3


def test_the_weight_of_fusion_is_chosen_where_it_helps(people: Path):
    task = make_task(people, fusion="pooled", fusion_weight=(2.0,))
    predictions = {}
    for split in task.eval_splits:
        found = perfect(task, split)
        found["feature"] = np.random.default_rng(0).normal(size=(len(found["is_text"]), 16)).astype(np.float32)
        found["feature"] /= np.linalg.norm(found["feature"], axis=1, keepdims=True)
        predictions[split] = found
    scores = task.evaluate(predictions)
    assert scores.setting["bonus"] in (0.0, 2.0)
    helped = task.retrieval("calibration", predictions["calibration"])
    truth = helped.truth
    oracle = (truth.query_id_Q[:, None] == truth.gallery_id_G).astype(np.float32)
    better = dataclasses.replace(helped, bonus_QG=oracle)
    assert choose([better], task.config.grid(), bonuses=(2.0,))["bonus"] == 2.0
    assert choose([dataclasses.replace(helped, bonus_QG=-oracle)], task.config.grid(), bonuses=(2.0,))["bonus"] == 0.0


def test_captions_that_say_nothing_of_the_query_are_not_asked_with(tmp_path: Path):
    write_people(tmp_path)
    path = tmp_path / "caption_all.json"
    items = json.loads(path.read_text())
    for item in items:
        item["captions"] = item["captions"][:1]
    silent = next(i for i in items if i["split"] == "test")
    silent["captions"] = ["Wearing a red shirt."]
    path.write_text(json.dumps(items))
    task = make_task(tmp_path, query="identity")
    assert task.queries("test").num_rows == task.data.images("test").num_rows - 1
    assert make_task(tmp_path, query="clothing").queries("test").num_rows == task.data.images("test").num_rows


def test_a_picture_that_will_not_decode_is_named(tmp_path: Path):
    write_people(tmp_path)
    task = make_task(tmp_path)
    plan = task.plan("train", 0, 0)
    path = plan.column("path")[0].as_py()
    (tmp_path / path).write_bytes(b"no picture")
    with pytest.raises(DataError, match=path):
        task.read(plan.slice(0, 2), task.data.store)


# --- a trained model


def packaged(task: t2i_reid.Task, setting: dict[str, float]) -> Package:
    return Package(
        trainable="t2i_reid",
        config=json.loads(json.dumps(dataclasses.asdict(task.config))),
        setting=setting,
        facts=json.loads(json.dumps(task.facts())),
        origin={},
        weights=task.model.state_dict(),
    )


@pytest.mark.parametrize("fusion", [None, "tokens"])
def test_a_package_answers_as_the_evaluation_ranks(fusion: str | None, people: Path, tmp_path: Path):
    task = make_task(people, fusion=fusion, fusion_top=100)
    task.plan("train", 0, 0)
    setting = {"bonus": 0.5} if fusion else {"qe_k": 2.0, "qe_alpha": 1.0}
    found = predicted(task, "validation")
    retrieval = task.retrieval("validation", found)
    expected = similarities(retrieval.features, setting, retrieval.bonus_QG)
    packaged(task, setting).write(Store(str(tmp_path)))
    answers = t2i_reid.serve(Package.read(Store(str(tmp_path))))
    files = [task.data.store.read(path) for path in task.data.images("validation").column("path").to_pylist()]
    texts = task.queries("validation").column("identity_text").to_pylist()[:3]
    out = answers.predict({"text": texts, "gallery": [files] * 3})
    for row in range(3):
        np.testing.assert_allclose(out["score"][row], expected[row][out["order"][row]], atol=2e-3)
        assert out["score"][row] == sorted(out["score"][row], reverse=True)


def test_the_example_survives_json_and_is_answered(people: Path):
    task = make_task(people)
    row = json.loads(json.dumps(t2i_reid.example(task.data, task.config)))
    out = t2i_reid.serve(packaged(task, {})).predict(row)
    assert sorted(out["order"][0]) == [0, 1, 2]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": [" "], "gallery": [["x"]]}, "gallery image 0 must be a PNG or JPEG"),
        ({"text": ["a man"], "gallery": [[]]}, "at least one image"),
    ],
)
def test_a_query_that_can_not_be_answered_is_refused(row: Any, message: str, people: Path):
    answers = t2i_reid.serve(packaged(make_task(people), {}))
    with pytest.raises(InputError, match=message):
        answers.predict(row)
    with pytest.raises(InputError, match="a query must have a text"):
        answers.encode_query({"text": ""})


def test_a_model_of_other_people_is_measured_and_goes_on_learning(people: Path, tmp_path: Path):
    write_people(tmp_path / "data", train=4)
    trained = make_task(people)
    other = make_task(tmp_path / "data")
    assert len(other.model.classifier.weight) == 4
    other.model.load_state_dict(trained.model.state_dict())
    assert len(other.model.classifier.weight) == 7
    packaged(trained, {}).write(Store(str(tmp_path / "package")))
    begun = make_task(tmp_path / "data", init=str(tmp_path / "package"))
    assert len(begun.model.classifier.weight) == 4
    assert torch.equal(begun.model.shared_mlp.weight, trained.model.shared_mlp.weight)
    with pytest.raises(InputError, match="does not fit"):
        make_task(tmp_path / "data", init=str(tmp_path / "package"), shared_dim=32)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"tower": "resnet"}, "tower must be one of vit-base, vit-tiny, conv-tiny, got 'resnet'"),
        ({"text_tower": "gpt"}, "text_tower must be one of bert-base, bert-tiny, got 'gpt'"),
        ({"text_tower": "bert-base"}, "equally wide, got 96 and 768"),
        ({"height_px": 30}, "height_px must be a multiple of 16 with conv-tiny, got 30"),
        ({"max_tokens": 200}, r"max_tokens must be in 3..128 with bert-tiny, got 200"),
        ({"batch": 1}, "batch must hold at least two identities.* got 1 and 0"),
        ({"batch": 6, "per_identity": 4}, "two identities, in multiples of per_identity, got 6 and 4"),
        ({"grl_schedule": "cosine"}, "grl_schedule must be one of seed, linear, dann, constant, got 'cosine'"),
        ({"schedule_unit": "training"}, "grl_until must be above 0 and at most 1 in training, got 45"),
        ({"cloth_adv_kind": "both"}, "cloth_adv_kind must be one of away, reversal, got 'both'"),
        ({"temperature": 0.0}, "temperature must be in"),
        ({"decouple": -1.0}, "decouple must be in 0..100, got -1"),
        ({"rerank_k1": (0,)}, "rerank and expand: k1 must be a whole number >= 1, got 0"),
        ({"fusion": "pooled", "fusion_heads": 3}, "fusion_heads must divide embed_dim, got 3 and 16"),
    ],
)
def test_a_bad_config_is_refused_with_rule_and_value(changed: Any, message: str):
    with pytest.raises(ValueError, match=message):
        config(**changed)
