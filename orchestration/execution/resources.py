"""What a Ray cluster has room for: how many trials of so many workers, and what a spec waits for."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ray
from ray.core.generated import gcs_pb2
from ray.util.placement_group import PlacementGroup, remove_placement_group

from ...datasets.problems import InputError
from ..search.protocol import Room, StopRequested
from ..spec.errors import StopRequestedError
from ..spec.schema import SweepSpec

NODES_POLL_S = 2.0  # how often a spec that waits for nodes looks for them


def room_now(spec: SweepSpec) -> Room:
    """What the cluster has for this spec now. Ray must be connected."""
    nodes = [n.get("Resources", {}) for n in ray.nodes() if n["Alive"]]
    return room_on(spec, nodes)


def room_on(spec: SweepSpec, nodes: Sequence[Mapping[str, float]]) -> Room:
    """The same for nodes with the given resources. A worker fits into one node or not at all."""
    need = spec.resources
    any_gpus = sum(n.get("GPU", 0) for n in nodes) > 0
    whole = need.gpus_per_worker if need.gpus_per_worker is not None else float(any_gpus)
    gpus, cpus = whole / need.trials_per_gpu, need.cpus_per_worker
    fits = [_fit(n, cpus, gpus) for n in nodes]
    total = sum(int(n.get("CPU", 0)) for n in nodes)
    kept = 1 if spec.stream == "ray" and total > 1 else 0  # Ray Data's readers need a CPU of their own
    lacking = max(0, kept - (total - sum(fits) * cpus))
    workers = max(0, sum(fits) - -(-lacking // cpus))
    least, most = need.worker_range
    slots = workers // most or int(workers >= least)
    if need.max_concurrent != "auto":
        slots = min(slots, need.max_concurrent)
    wanted = f"{least}" if least == most else f"{least} to {most}"
    described = ", ".join(
        f"{f} on one with {n.get('CPU', 0):g} CPUs and {n.get('GPU', 0):g} GPUs"
        for n, f in zip(nodes, fits, strict=True)
    )
    return Room(
        slots,
        gpus,
        workers,
        f"a trial needs {wanted} worker{'s' * (most > 1)} of {cpus} CPUs and {gpus:g} GPUs; the cluster's "
        f"{len(nodes)} nodes have room for {workers}: {described or 'none'}"
        + (f"; {kept} CPU is kept for the stream" if kept else ""),
    )


def _fit(node: Mapping[str, float], cpus: int, gpus: float) -> int:
    by_cpu = int(node.get("CPU", 0) // cpus)
    return min(by_cpu, int(node.get("GPU", 0) / gpus + 1e-9)) if gpus else by_cpu


def wait_for_room(spec: SweepSpec, tell: Callable[[str], None], stop_requested: StopRequested) -> Room:
    """What the cluster has, once one trial fits. Says what it waits for, and asks an autoscaler for it. Raises
    InputError with the arithmetic when nothing fits within `resources.wait_s`, StopRequestedError on a request to
    stop."""
    until = time.monotonic() + spec.resources.wait_s
    told = ""
    while True:
        room = room_now(spec)
        if room.slots:
            return room
        if stop_requested():
            raise StopRequestedError
        if time.monotonic() > until:
            raise InputError(f"resources: {room.arithmetic}")
        if room.arithmetic != told:
            told = room.arithmetic
            tell(f"waiting for nodes, at most {spec.resources.wait_s:g} s: {told}")
            _ask_autoscaler(spec, room)
        time.sleep(min(NODES_POLL_S, max(0.0, until - time.monotonic()) + 0.01))


def _ask_autoscaler(spec: SweepSpec, room: Room) -> None:
    """So that nodes come where there is an autoscaler; without one nothing happens."""
    bundle = {
        "CPU": spec.resources.cpus_per_worker,
        **({"GPU": room.gpus_per_worker} if room.gpus_per_worker else {}),
    }
    with contextlib.suppress(Exception):
        from ray.autoscaler.sdk import request_resources

        request_resources(bundles=[bundle] * spec.resources.worker_range[0])


def remove_orphaned_placement_groups() -> int:
    """Removes placement groups of this job whose creator is dead; how many.

    Ray removes them with the job only, or with its dashboard's help (ray#58515): a killed trial of several workers
    would hold their CPUs to the end of the sweep. Who created a group is in the head's own table alone.
    """
    accessor: Any = ray._private.state.state._connect_and_get_accessor()
    job = ray.get_runtime_context().get_job_id()
    removed = 0
    for raw in accessor.get_placement_group_table():
        group = gcs_pb2.PlacementGroupTableData.FromString(raw)
        ours = group.creator_job_id.hex() == job and not group.is_detached
        by_actor = group.creator_actor_id.strip(b"\xff")  # Tune's are by the driver, which is no actor
        if ours and by_actor and group.creator_actor_dead and group.state != gcs_pb2.PlacementGroupTableData.REMOVED:
            remove_placement_group(PlacementGroup(ray.PlacementGroupID(group.placement_group_id)))
            removed += 1
    return removed
