"""The command landmarks."""

import json

import itk
import numpy as np
import pandas as pd
import pytest

import xdreg
from tests.helpers.fields import Known, image, points_of


@pytest.fixture
def tables(tmp_path):
    """Return the paths of corresponding points of a known map, and the map."""
    known = Known(3, 8)
    fixed = points_of(known, 30)
    paths = [tmp_path / f"{name}.csv" for name in ("fixed", "moving")]
    for points, path in zip((fixed, known.forth(fixed)), paths, strict=True):
        pd.DataFrame(points, columns=list("zyx")).to_csv(path, index=False)
    return *paths, known


def test_a_matrix_a_transform_and_a_field(xdreg_command, tables, tmp_path):
    fixed, moving, known = tables
    image(known.fixed).dreg.to_ome_zarr(tmp_path / "like.ome.zarr")
    outputs = [tmp_path / name for name in ("a.csv", "a.tfm", "a.ome.zarr")]
    for kind, output in zip(("affine", "affine", "thin-plate"), outputs, strict=True):
        like = ["--like", tmp_path / "like.ome.zarr"] if "zarr" in output.name else []
        code, out, err = xdreg_command(
            "landmarks", fixed, moving, "-o", output, "--kind", kind, *like
        )
        assert code == 0, err
        assert f"{kind} transform of 30 of 30" in out
    found = xdreg.landmarks(fixed, moving)
    np.testing.assert_allclose(np.loadtxt(outputs[0], delimiter=","), found.matrix)
    (transform,) = itk.transformread(str(outputs[1]))
    place = points_of(known, 1)
    there = list(transform.TransformPoint(place[0, ::-1].tolist()))[::-1]
    np.testing.assert_allclose(there, found.move(place)[0])
    points = xdreg.landmarks(fixed, moving).pairs.fixed
    gap = xdreg.open_field(outputs[2]).dreg.transform_points(points)
    np.testing.assert_allclose(gap, known.forth(points), atol=0.1)


def test_residuals_for_scripts_and_what_cannot_be_written(
    xdreg_command, tables, tmp_path
):
    fixed, moving, _ = tables
    code, out, _ = xdreg_command("landmarks", fixed, moving, "--json")
    assert code == 0
    assert len(json.loads(out)["pairs"]) == 30
    thin = ("landmarks", fixed, moving, "--kind", "thin-plate", "-o")
    for name, message in (("a.csv", "no matrix"), ("a.nii.gz", "--like")):
        code, _, err = xdreg_command(*thin, tmp_path / name)
        assert code == 1
        assert message in err
    code, _, err = xdreg_command("landmarks", fixed)
    assert code == 1
    assert "BigWarp" in err
