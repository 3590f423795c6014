"""Images that the tests of several commands share."""

import pytest

import xdreg
from tests.helpers.fields import Known


@pytest.fixture(scope="package")
def pair(tmp_path_factory):
    """Return the paths of a small pair."""
    folder = tmp_path_factory.mktemp("pair")
    return xdreg.datasets.write_phantom_pair(folder, (72, 80), amplitude=2.0)


@pytest.fixture(scope="package")
def stored(tmp_path_factory):
    """Return a field with a known inverse, and its path."""
    known = Known(3, 30)
    path = tmp_path_factory.mktemp("field") / "field.ome.zarr"
    known.field.dreg.to_ome_zarr(path)
    return known, path
