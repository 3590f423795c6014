"""The field Dataset that a run returns: displacement, diagnostics and provenance."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import xarray as xr

from xdreg.fields.diagnostics import EARLIER, block_variables, earlier_variable
from xdreg.fields.displacement import displacement_array

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from xdreg.engines.metric_choice import Choice
    from xdreg.registration.plan import Plan
    from xdreg.registration.state import Diagnostics, State


def result_field(
    plan: Plan,
    state: State,
    diagnostics: Sequence[Diagnostics],
    manifest: Mapping[str, Any],
    *,
    choice: Choice | None,
    pose: Mapping[str, Any] | None,
) -> xr.Dataset:
    """Return the field of a run, from the state and the diagnostics of its stages.

    ``choice`` and ``pose`` are None unless the metric was chosen and the pose searched.
    """
    reader = state.reader
    grid = replace(reader.grid, direction=plan.fixed.direction)
    field = xr.Dataset({"displacement": displacement_array(reader.source, grid)})
    stages = enumerate(plan.stages)
    deformable = [number for number, stage in stages if not stage.options.linear]
    last = deformable[-1] if deformable else len(plan.stages) - 1
    others = dict(enumerate(diagnostics))
    field = field.assign(block_variables(others.pop(last), reader.grid.dims))
    if others:
        field[EARLIER] = earlier_variable(others)
    return field.assign_attrs(_attrs(plan, state, manifest, choice, pose))


def _attrs(
    plan: Plan,
    state: State,
    manifest: Mapping[str, Any],
    choice: Choice | None,
    pose: Mapping[str, Any] | None,
) -> dict[str, str]:
    """Return the provenance of a field, as JSON."""
    attrs = {
        "fixed_grid": json.dumps(plan.fixed.placed.to_dict()),
        "moving_grid": json.dumps(plan.moving.placed.to_dict()),
    }
    # With its grid, a stage's blocks can be placed without the images.
    decided = zip(manifest["stages"], plan.stages, strict=True)
    stages = [
        entry | {"metric": stage.options.metric, "grid": stage.partition.grid.to_dict()}
        for entry, stage in decided
    ]
    described = {**manifest, "stages": stages}
    if choice is not None:
        described["choice"] = asdict(choice)
        attrs["metric"] = str(choice)
    attrs["xdreg"] = json.dumps(described)
    if pose is not None:
        attrs["pose"] = json.dumps(pose)
    if state.matrix is not None:
        attrs["matrix"] = json.dumps(state.matrix.tolist())
    else:
        # Earlier linear stages are part of the displacement.
        attrs["linear_part"] = "included"
    return attrs
