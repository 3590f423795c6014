"""Stores and options files of earlier versions, which stay readable."""

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

import xdreg
from tests.helpers.hostile import shift
from tests.helpers.pairs import shifted_pair
from xdreg.cli.options_file import read_options
from xdreg.coordinates import grid_of
from xdreg.fields.field import field_grid, fixed_grid, moving_grid
from xdreg.fields.provenance import last_deformable
from xdreg.grid import Grid
from xdreg.registration.workdir import read_json

#: Holds ``image_VERSION.ome.zarr``, ``field.ome.zarr`` with an inverse, ``run.toml``.
ARCHIVE = Path(__file__).with_name("data") / "written_by_0.1.0.dev315.tar.xz"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Return a folder of what an earlier version wrote."""
    folder = tmp_path_factory.mktemp("written")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.mark.parametrize("version", ["0.4", "0.5", "0.6"])
def test_an_image(written, version):
    tree = xdreg.open_ome_zarr(written / f"image_{version}.ome.zarr")
    image = tree["scale0/image"]
    np.testing.assert_array_equal(image, np.arange(96).reshape(2, 6, 8))
    assert image.dtype == np.uint16
    assert image.c.values.tolist() == ["dapi", "gfp"]
    grid = Grid(("y", "x"), (6, 8), (0.5, 2.0), (-3.0, 7.25), "micrometer")
    assert grid_of(image) == grid
    assert image.attrs["name"] == tree.name == "kidney"
    assert grid_of(tree["scale1/image"]).spacing == (1.0, 2.0)


def test_a_field_and_its_inverse(written):
    image = Grid(("y", "x"), (32, 40), (1.0, 1.0), (0.0, 0.0), "micrometer")
    field = xdreg.open_field(written / "field.ome.zarr")
    assert (fixed_grid(field), moving_grid(field)) == (image, image)
    assert field_grid(field) == image.every((2, 2))
    found = field.displacement
    np.testing.assert_array_equal(found.values.ravel(), np.arange(714) / 64 - 2)
    assert (found.dtype, found.attrs["units"]) == (np.float32, "micrometer")
    assert field.block_status.values.tolist() == [[0, 0], [0, 0]]
    assert field.stage0_block_status.values.tolist() == [[0]]
    np.testing.assert_allclose(
        field.block_max_update, [[0.8872805, 0.7337916], [0.92641, 0.8172500]]
    )
    inverse = xdreg.open_field(written / "field.ome.zarr", inverse=True)
    assert field_grid(inverse) == image
    np.testing.assert_array_equal(
        inverse.displacement.values.ravel(), 2 - np.arange(2560) / 64
    )
    np.testing.assert_allclose(inverse.block_outside, 0.0203125)


def test_what_a_field_says_of_its_registration(written):
    field = xdreg.open_field(written / "field.ome.zarr")
    made = json.loads(field.attrs["xdreg"])
    assert made["versions"]["xdreg"] == "0.1.0.dev315"
    assert made["fixed"]["source"] == "fixed.ome.zarr"
    last = last_deformable(field)
    assert last.name == "local_correlation"
    assert last.statuses == {"success": 4}
    assert (last.partition.block_shape, last.partition.overlap) == ((16, 20), (8, 10))


def test_an_options_file(written):
    block = {"block_shape": [16, 20], "overlap": [8, 10], "field_step": [2, 2]}
    assert read_options(written / "run.toml") == {
        "fixed": str(written / "fixed.ome.zarr"),
        "moving": str(written / "moving.ome.zarr"),
        "fixed_mask": "auto",
        "stages": [
            xdreg.Affine(level=0, metric="lncc"),
            xdreg.LocalCorrelation(level=0, metric="lncc", **block),
        ],
    }


def test_a_work_directory_of_another_version_is_refused(tmp_path):
    fixed, moving = shifted_pair()

    def register():
        return fixed.dreg.register(
            moving, stages=[shift], metric="ncc", workdir=tmp_path, progress=False
        )

    register()
    file = tmp_path / "run.json"
    manifest = read_json(file)
    now = manifest["versions"]["xdreg"]
    manifest["versions"]["xdreg"] = "0.0.1"
    file.write_text(json.dumps(manifest))
    match = rf'versions: xdreg was "0.0.1", now "{now}".*fresh=True'
    with pytest.raises(xdreg.InputError, match=match):
        register()
