"""The command invert."""

import numpy as np
import pytest

import xdreg
from tests.helpers.fields import moving_like
from xdreg.cli.invert import invert


def test_invert(xdreg_command, stored, tmp_path):
    known, field = stored
    xdreg.save(moving_like(known), tmp_path / "moving.ome.zarr")
    target = tmp_path / "inverse.ome.zarr"
    options = ["--like", tmp_path / "moving.ome.zarr", "-o", target, "--step", 2]
    code, out, err = xdreg_command("invert", field, *options)
    assert code == 0, err
    for word in ("success", "residual", "micrometer", "outside", "folded", "wrote"):
        assert word in out
    expected = known.field.dreg.inverse(like=moving_like(known), step=2).displacement
    found = xdreg.open_field(target)
    np.testing.assert_array_equal(found.displacement, expected)
    assert "success" in xdreg_command("info", target)[1]
    with pytest.raises(xdreg.StoreError, match="exists"):
        invert(str(field), target)
    with pytest.raises(xdreg.InputError, match=r": like=\.\.\."):
        invert(str(field), tmp_path / "other.ome.zarr")
