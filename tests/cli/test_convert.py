"""The command convert, there and back."""

import numpy as np
from typer.testing import CliRunner

import xdreg
from tests.helpers.fields import Known
from xdreg.cli.main import app
from xdreg.fields.field import field_grid


def run(*arguments):
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_there_and_back(tmp_path):
    field = Known(2, 5.0).field
    store, warp, again = (
        tmp_path / n for n in ("f.ome.zarr", "w.nii.gz", "g.ome.zarr")
    )
    xdreg.save(field, store)
    assert "wrote" in run("convert", store, warp).output
    assert field_grid(xdreg.open_transform(warp)).units == "millimeter"
    run("convert", warp, again, "--like", store, "--affine")
    back = xdreg.open_field(again)
    assert field_grid(back) == field_grid(field)
    np.testing.assert_allclose(back.displacement, field.displacement, atol=1e-4)


def test_an_inverse_goes_along_and_comes_out(tmp_path):
    field = Known(2, 5.0).field
    inverse = field.dreg.inverse(like=field.displacement[0])
    paths = [tmp_path / f"{n}.ome.zarr" for n in ("a", "b", "both", "back")]
    xdreg.save(field, paths[0])
    xdreg.save(inverse, paths[1])
    run("convert", paths[0], paths[2], "--inverse", paths[1])
    run("convert", paths[2], paths[3], "--backwards", "--output-units", "nanometer")
    back = xdreg.open_field(paths[3])
    assert field_grid(back).units == "nanometer"
    np.testing.assert_allclose(
        back.displacement.values / 1e3, inverse.displacement.values, rtol=1e-6
    )
