"""Placement groups that name their sweep: on a shared cluster two sweeps may have one name, and ids differ."""

from __future__ import annotations

import uuid
from collections.abc import Mapping

from ray import tune
from ray.util.placement_group import PlacementGroup, placement_group


class SweepGroups(tune.PlacementGroupFactory):
    """What a trial's actor needs, as Tune asks for it. Ray refuses two groups of one name, so each has a random end."""

    def __init__(self, resources: Mapping[str, float], sweep: str, sweep_id: str | None) -> None:
        """`resources` as Ray names them: CPU, GPU, memory."""
        super().__init__([dict(resources)])
        self.owner = f"refsweep/{sweep}/{sweep_id}"

    def to_placement_group(self) -> PlacementGroup:
        """A new group: `refsweep/<sweep>/<id>/<random>`."""
        name = f"{self.owner}/{uuid.uuid4().hex[:12]}"
        return placement_group(self.bundles, strategy=self.strategy, name=name)
