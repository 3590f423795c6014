"""Fields prepared for other tools: coarsening, memory, units."""

import numpy as np
import pytest

import xdreg
from tests.helpers.fields import Known, difference
from xdreg.bridges.prepare import _fitting_step, _needed
from xdreg.fields.composition import compose
from xdreg.fields.displacement import in_units
from xdreg.fields.field import field_grid, fixed_grid
from xdreg.grid import Grid


def test_a_step_coarsens(tmp_path):
    field = Known(3).field
    field.dreg.to_file(tmp_path / "coarse.nrrd", step=2)
    coarse = xdreg.open_transform(tmp_path / "coarse.nrrd")
    expected = field_grid(field).every((2, 2, 2))
    assert field_grid(coarse).shape == expected.shape
    again = xdreg.open_transform(tmp_path / "coarse.nrrd", like=expected)
    ours = compose(field, like=expected)
    assert difference(again, ours) < 1e-4
    transform = field.dreg.to_itk_transform(step=2)
    size = tuple(transform.GetDisplacementField().GetLargestPossibleRegion().GetSize())
    assert size[::-1] == expected.shape


def test_what_does_not_fit_into_memory_is_said(tmp_path, monkeypatch):
    import psutil

    class Little:
        available = 1e5

    monkeypatch.setattr(psutil, "virtual_memory", Little)
    field = Known(3).field
    writers = {
        "image": lambda step: field.dreg.to_file(tmp_path / "a.nrrd", step=step),
        "file": lambda step: field.dreg.to_file(
            tmp_path / "a.h5", step=step, affine=True
        ),
        "memory": lambda step: field.dreg.to_itk_transform(step=step),
    }
    for write in writers.values():
        # A step that does not fit is no step to count from.
        for step in (1, 2):
            with pytest.raises(xdreg.InputError, match=r"coarsen it: step=3$"):
                write(step)
        write(3)


def test_a_change_of_unit_carries_all_geometry():
    known = Known(2)
    changed = in_units(known.field, "millimeter")
    assert fixed_grid(changed).spacing == tuple(s / 1e3 for s in known.fixed.spacing)
    back = in_units(changed, "micrometer")
    np.testing.assert_allclose(back.displacement, known.field.displacement, rtol=1e-6)


def test_a_step_for_an_absurd_shape_is_found_at_once():
    """It was looked for one by one, up to the length of the axis."""
    grid = Grid(("y", "x"), (2, 10**12), (1.0, 1.0), (0.0, 0.0))
    step = _fitting_step(grid, 1, 1e6)
    assert _needed(grid.every((step,) * 2)) <= 1e6
    assert _needed(grid.every((step - 1,) * 2)) > 1e6
