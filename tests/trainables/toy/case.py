"""The toy is small as it is. Its case stands for the loop's own fields too, which every Config has."""

from __future__ import annotations

from refsweep.tests.trainables.tools import Case, Changed

FAILING = {"fail_at_epoch": 1}
SGD = {"optimiser": "sgd"}
PLATEAU = {
    "epochs": 4,
    "schedule": "plateau",
    "patience": 0,
    "plateau_metric": "height",
    "plateau_mode": "max",
}
FALLING = {"plateau_metric": "loss", "plateau_mode": "min"}
CASE = Case(
    config={"epochs": 2, "batch": 4, "x": 2.0, "y": 1.0, "noise": 0.5},
    variants=[{"ema": 0.9, "accumulate": 2, "clip_norm": 1.0, "warmup": 0.3, "batch": 3}],
    changes={
        "epochs": 3,
        "batch": 3,
        "clip_norm": 0.1,
        "clip_quantile": 0.5,
        "ema": 0.5,
        "fail_at_epoch": 1,
        "fail_with": Changed(value="oom", given=FAILING),
        "fail_once": Changed(value="/", given=FAILING),
        "nan_at_epoch": 1,
        "momentum": Changed(value=0.9, given=SGD),
        "nesterov": Changed(value=True, given={**SGD, "momentum": 0.9}),
        "schedule_interval": Changed(value="epoch", given={"schedule": "linear"}),
        "warmup": 0.5,
        "warmup_unit": Changed(value="epochs", given={"warmup": 1}),
        "warmup_start_factor": Changed(value=0.5, given={"warmup": 0.5}),
        "lr_start_factor": 0.5,
        "lr_end_factor": 0.5,
        "step_epochs": Changed(value=2, given={"epochs": 3, "schedule": "step", "step_epochs": 1}),
        "milestones": Changed(value=(2,), given={"epochs": 3, "schedule": "multistep", "milestones": (1,)}),
        "lr_decay": Changed(value=0.5, given={"schedule": "step", "step_epochs": 1}),
        "patience": Changed(value=1, given=PLATEAU),
        "plateau_metric": Changed(value="height", given={**PLATEAU, **FALLING}),  # which is always the same
        "plateau_mode": Changed(value="max", given={**PLATEAU, **FALLING}),
    },
    no_effect={
        "seconds_per_epoch": "how long an epoch takes, and nothing of what it gives",
    },
)
