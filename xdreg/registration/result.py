"""The field Dataset that a run returns: displacement, diagnostics and provenance."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from xdreg.fields.diagnostics import block_variables
from xdreg.fields.field import displacement_array
from xdreg.fields.reader import FieldReader
from xdreg.stages import Linear

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from xdreg.registration.planned_stage import PlannedStage


def assemble_field(
    reader: FieldReader,
    records: Sequence[Mapping[str, NDArray[np.float32]]],
    stages: Sequence[PlannedStage],
    attrs: Mapping[str, str],
) -> xr.Dataset:
    """Put a run's result together.

    Parameters
    ----------
    reader
        The last stage's field.
    records
        Per stage, its diagnostics by name, each ``(*counts)``.
    stages
        The stages.
    attrs
        Provenance.
    """
    field = xr.Dataset({"displacement": displacement_array(reader.source, reader.grid)})
    deformable = [i for i, s in enumerate(stages) if not isinstance(s.options, Linear)]
    last = deformable[-1] if deformable else len(stages) - 1
    for number, record in enumerate(records):
        prefix = "" if number == last else f"stage{number}_"
        field = field.assign(block_variables(record, reader.grid.dims, prefix))
    return field.assign_attrs(attrs)
