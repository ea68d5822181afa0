"""What a Config refuses, in words; and that it stays the Config of checkpoints that an earlier commit wrote."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import pytest
from refsweep.trainables import coercion, discovery
from refsweep.trainables.toy import task as toy
from refsweep.trainables.training.config import ADDED_LATER, LoopConfig, config_hash

# of Config() of each family, by the code of commit 4a374ca
FIRST_RELEASE = {
    "ikun": "892c0b2fea1be0db",
    "mm_reid": "52a0bdfed3b1a6ca",
    "t2i_reid": "501a7c9695660261",
    "toy": "769987f404331d41",
}


@pytest.mark.parametrize("name", FIRST_RELEASE)
def test_a_default_config_has_the_hash_it_had_in_the_first_release(name: str):
    assert config_hash(discovery.load(name).Config()) == FIRST_RELEASE[name]


def test_every_other_value_of_a_field_gives_another_hash():
    changed: dict[str, Any] = {
        "optimiser": {"optimiser": "sgd"},
        "momentum": {"optimiser": "sgd", "momentum": 0.9},
        "nesterov": {"optimiser": "sgd", "momentum": 0.9, "nesterov": True},
        "bias_lr_factor": {"bias_lr_factor": 2.0},
        "bias_weight_decay_factor": {"bias_weight_decay_factor": 0.0},
        "norm_weight_decay_factor": {"norm_weight_decay_factor": 0.0},
        "schedule": {"schedule": "constant"},
        "schedule_interval": {"schedule_interval": "step"},
        "warmup": {"warmup": 0.5},
        "warmup_unit": {"warmup": 0.5, "warmup_unit": "epochs"},
        "warmup_start_factor": {"warmup": 0.5, "warmup_start_factor": 0.1},
        "lr_start_factor": {"lr_start_factor": 0.5},
        "lr_end_factor": {"lr_end_factor": 0.5},
        "step_epochs": {"schedule": "step", "step_epochs": 2},
        "milestones": {"schedule": "multistep", "milestones": (2, 3)},
        "lr_decay": {"schedule": "step", "step_epochs": 2, "lr_decay": 0.5},
        "patience": {"schedule": "plateau", "patience": 2},
        "plateau_metric": {"schedule": "plateau", "patience": 2, "plateau_metric": "height"},
        "plateau_mode": {"schedule": "plateau", "patience": 2, "plateau_metric": "loss", "plateau_mode": "min"},
    }
    assert set(ADDED_LATER) <= set(changed)
    hashes = [config_hash(toy.Config(**fields)) for fields in ({}, *changed.values())]
    assert len(set(hashes)) == len(hashes)


def test_what_is_left_out_of_the_hash_is_what_a_config_has_by_default():
    defaults = {field.name: field.default for field in dataclasses.fields(LoopConfig)}
    assert {name: defaults[name] for name in ADDED_LATER} == ADDED_LATER


@pytest.mark.parametrize(
    ("field", "value"),
    [("epochs", 0), ("lr", -1.0), ("warmup", 1.5), ("accumulate", 0), ("clip_norm", 0.0), ("ema", 1.0), ("batch", 0)],
)
def test_a_bad_loop_config_is_refused_with_rule_and_value(field: str, value: float):
    with pytest.raises(ValueError, match=rf"{field} must be .*got {value}"):
        toy.Config(**{field: value})


PLATEAU = {"schedule": "plateau", "epochs": 20}


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"optimiser": "rmsprop"}, "optimiser must be one of adamw, adam, sgd, got 'rmsprop'"),
        (
            {"schedule": "poly"},
            "schedule must be one of cosine, linear, step, multistep, plateau, constant, got 'poly'",
        ),
        ({"momentum": 0.9}, "momentum must be 0.0 unless optimiser is sgd, got 0.9"),
        ({"optimiser": "adam", "momentum": 0.9}, "momentum must be 0.0 unless optimiser is sgd, got 0.9"),
        ({"optimiser": "sgd", "momentum": 1.0}, "momentum must be in 0..0.9999, got 1.0"),
        ({"nesterov": True}, "nesterov must be false unless optimiser is sgd, got true"),
        ({"optimiser": "sgd", "nesterov": True}, "momentum must be > 0 with nesterov, got 0.0"),
        (
            {"schedule": "constant", "schedule_interval": "epoch"},
            "schedule_interval must be batch unless schedule is cosine or linear, or warmup is above 0, got epoch",
        ),
        ({"warmup_unit": "steps"}, "warmup_unit must be training unless warmup is above 0, got steps"),
        ({"warmup_start_factor": 0.1}, "warmup_start_factor must be 0.0 unless warmup is above 0, got 0.1"),
        ({"warmup": 1.5}, "warmup must be in 0..1 with warmup_unit training, got 1.5"),
        ({"warmup": -1.0}, "warmup must be in 0..1000000, got -1.0"),
        (
            {"warmup": 7.0, "warmup_unit": "epochs", "epochs": 6},
            "warmup must be in 0..6 with warmup_unit epochs, got 7.0",
        ),
        (
            {"warmup": 1.5, "warmup_unit": "steps"},
            "warmup must be a whole number with warmup_unit steps, got 1.5",
        ),
        (
            {"warmup": 2.0, "warmup_unit": "steps", "warmup_start_factor": 0.1, "schedule_interval": "epoch"},
            "warmup_unit must be training or epochs with schedule_interval epoch, got steps",
        ),
        (
            {"warmup": 2.0, "warmup_unit": "epochs", "schedule_interval": "epoch"},
            "warmup_start_factor must be > 0 with schedule_interval epoch, or the first epoch learns nothing, got 0.0",
        ),
        (
            {"schedule": "constant", "lr_end_factor": 0.1},
            "lr_end_factor must be 0.0 unless schedule is cosine, linear or plateau, got 0.1",
        ),
        (
            {**PLATEAU, "lr_start_factor": 0.1},
            "lr_start_factor must be 1.0 unless schedule is cosine or linear, got 0.1",
        ),
        ({"step_epochs": 2}, "step_epochs must be null unless schedule is step, got 2"),
        ({"schedule": "step"}, "step_epochs must be given with schedule step, got null"),
        (
            {"schedule": "step", "step_epochs": 6, "epochs": 6},
            "step_epochs must be below epochs, 6, or lr never decays, got 6",
        ),
        ({"milestones": (2, 3)}, "milestones must be [] unless schedule is multistep, got [2, 3]"),
        ({"schedule": "multistep"}, "milestones must be given with schedule multistep, got []"),
        (
            {"schedule": "multistep", "milestones": (2, 6), "epochs": 6},
            "milestones must be in 1..5, below epochs, got [2, 6]",
        ),
        ({"schedule": "multistep", "milestones": (3, 2)}, "milestones must increase, got [3, 2]"),
        ({"lr_decay": 0.5}, "lr_decay must be 0.1 unless schedule is step, multistep or plateau, got 0.5"),
        ({"patience": 3}, "patience must be 10 unless schedule is plateau, got 3"),
        ({"plateau_metric": "loss"}, "plateau_metric must be null unless schedule is plateau, got loss"),
        ({**PLATEAU, "plateau_mode": "min"}, "plateau_mode must be max unless plateau_metric is given, got min"),
        (
            {**PLATEAU, "evaluate_every": 3, "patience": 5},
            "patience must be at most 4 with 6 evaluations before the last epoch, or lr never decays, got 5",
        ),
        (
            {**PLATEAU, "evaluate_every": 20},
            "schedule must not be plateau with 0 evaluations before the last epoch: lr never decays",
        ),
    ],
)
def test_what_does_not_go_together_is_refused_with_rule_and_value(fields: dict[str, Any], line: str):
    with pytest.raises(ValueError, match="must") as caught:
        toy.Config(**fields)
    assert str(caught.value).splitlines() == [line]


def test_all_that_is_wrong_is_said_at_once():
    with pytest.raises(ValueError, match="must") as caught:
        toy.Config(momentum=0.9, milestones=(2,), warmup=2.0, lr=-1.0)
    assert len(str(caught.value).splitlines()) == 4


@dataclass(frozen=True, slots=True, kw_only=True)
class StepConfig(LoopConfig):
    """A family whose defaults are of a schedule and an optimiser that others may replace."""

    epochs: int = 20
    optimiser: Any = "sgd"
    momentum: float = 0.9
    schedule: Any = "step"
    step_epochs: int | None = 5


def test_a_familys_own_defaults_are_not_held_against_another_choice():
    assert StepConfig(schedule="cosine", optimiser="adam").step_epochs == 5
    with pytest.raises(ValueError, match="step_epochs must be 5 unless schedule is step, got 6"):
        StepConfig(schedule="cosine", step_epochs=6)
    assert StepConfig(step_epochs=6).schedule == "step"


def test_yaml_sets_the_fields_by_name():
    fields = {"optimiser": "sgd", "momentum": 0.9, "nesterov": True, "schedule": "multistep", "milestones": [2, 4]}
    config = coercion.make_config(toy.Config, {**fields, "warmup": 1, "warmup_unit": "epochs"})
    assert config == toy.Config(
        optimiser="sgd",
        momentum=0.9,
        nesterov=True,
        schedule="multistep",
        milestones=(2, 4),
        warmup=1.0,
        warmup_unit="epochs",
    )
