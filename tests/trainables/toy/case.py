"""The toy is small as it is. Its case stands for the loop's own fields too, which every Config has."""

from __future__ import annotations

from refsweep.tests.trainables.tools import Case, Changed

FAILING = {"fail_at_epoch": 1}
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
    },
    no_effect={"seconds_per_epoch": "how long an epoch takes, and nothing of what it gives"},
)
