"""How many trials fit on a cluster's nodes, worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest
from refsweep.orchestration.execution.resources import room_on
from refsweep.orchestration.spec.read import make_spec
from refsweep.orchestration.spec.schema import SweepSpec

GPU_NODE = {"CPU": 16.0, "GPU": 4.0}


def spec(stream: str = "auto", **resources: Any) -> SweepSpec:
    return make_spec(
        {
            "name": "s",
            "trainable": "toy",
            "data": "none",
            "objective": {"metric": "loss", "mode": "min"},
            "stream": stream,
            "resources": resources,
        }
    )


@pytest.mark.parametrize(
    ("wanted", "nodes", "slots"),
    [
        (spec(), [{"CPU": 2.0}], 2),
        (spec(), [{"CPU": 0.0}, {"CPU": 1.0}, {"CPU": 1.0}], 2),  # a head without CPUs
        (spec(cpus_per_worker=2), [{"CPU": 3.0}, {"CPU": 3.0}], 2),  # a worker does not span nodes
        (spec(workers=2, cpus_per_worker=2), [{"CPU": 3.0}, {"CPU": 3.0}], 1),  # a trial does
        (spec(workers=3, cpus_per_worker=2), [{"CPU": 3.0}, {"CPU": 3.0}], 0),
        (spec(workers=[1, 2]), [{"CPU": 4.0}], 2),  # at most two each
        (spec(workers=[2, 8]), [{"CPU": 4.0}], 1),  # one of four
        (spec(workers=[5, 8]), [{"CPU": 4.0}], 0),
        (spec(cpus_per_worker=4), [GPU_NODE], 4),  # one GPU each, where there are any
        (spec(cpus_per_worker=2, trials_per_gpu=2), [GPU_NODE], 8),
        (spec(cpus_per_worker=4, trials_per_gpu=2), [GPU_NODE], 4),  # the CPUs are the limit
        (spec(gpus_per_worker=0), [GPU_NODE], 16),
        (spec(gpus_per_worker=2), [GPU_NODE, {"CPU": 64.0}], 2),
        (spec(gpus_per_worker=1), [{"CPU": 64.0}], 0),
        (spec(stream="ray"), [{"CPU": 2.0}], 1),  # one CPU for the readers
        (spec(stream="ray", cpus_per_worker=2), [{"CPU": 5.0}], 2),  # which is left over here
        (spec(max_concurrent=3), [{"CPU": 64.0}], 3),
        (spec(), [], 0),
    ],
)
def test_slots(wanted: SweepSpec, nodes: list[dict[str, float]], slots: int):
    assert room_on(wanted, nodes).slots == slots


def test_the_arithmetic_says_what_is_needed_and_what_is_there():
    found = room_on(spec(workers=3, cpus_per_worker=2, stream="ray"), [{"CPU": 3.0}, {"CPU": 0.0}])
    assert found.arithmetic == (
        "a trial needs 3 workers of 2 CPUs and 0 GPUs; the cluster's 2 nodes have room for 1: 1 on one with 3 CPUs and "
        "0 GPUs, 0 on one with 0 CPUs and 0 GPUs; 1 CPU is kept for the stream"
    )
