"""Axes in any order and direction, as other writers store them."""

import json
import shutil

import numpy as np
import pytest
import zarr

import xdreg
from xdreg.coordinates import grid_of
from xdreg.stores.readers import image_reader
from xdreg.stores.reordered import Reordered

VALUES = np.random.default_rng(0).random((4, 5, 6)).astype(np.float32)
SCALE = {"z": 2.0, "y": 1.0, "x": 0.5, "c": 1.0, "t": 1.0}


def write(path, values, names, *, start=None, orient=None, units=None, version="0.4"):
    """Write a store of one level with zarr-python alone."""
    kinds = {"t": "time", "c": "channel"}
    dims = [name.lower() for name in names]
    axes = []
    for name, dim in zip(names, dims, strict=True):
        axis = {"name": name, "type": kinds.get(dim, "space")}
        unit = (units or {}).get(dim, "micrometer" if dim in "zyx" else None)
        axis |= {"unit": unit} if unit is not None else {}
        if orient and dim in orient:
            axis["orientation"] = {"type": "anatomical", "value": orient[dim]}
        axes.append(axis)
    group = zarr.open_group(path, mode="w", zarr_format=2)
    group.create_array("0", shape=values.shape, dtype=values.dtype, chunks=(2,) * 3)
    group["0"][...] = values
    steps = [{"type": "scale", "scale": [SCALE[d] for d in dims]}]
    if start is not None:
        steps.append({"type": "translation", "translation": [start[d] for d in dims]})
    datasets = [{"path": "0", "coordinateTransformations": steps}]
    image = {"version": version, "axes": axes, "datasets": datasets}
    image |= {"coordinateTransformations": None}
    group.attrs["multiscales"] = [image]
    return path


@pytest.mark.parametrize("names", ["xyz", "XZY", "yXz", "zyx"])
def test_any_order_and_case(tmp_path, names):
    order = ["zyx".index(name.lower()) for name in names]
    path = write(tmp_path / "a.zarr", VALUES.transpose(order), names)
    image = xdreg.open_ome_zarr(path, level=0)
    assert image.dims == ("z", "y", "x")
    assert grid_of(image).spacing == (2.0, 1.0, 0.5)
    np.testing.assert_array_equal(image, VALUES)
    window = [slice(1, 4), slice(0, 5, 2), slice(2, 3)]
    np.testing.assert_array_equal(
        image_reader(image).read(window), VALUES[tuple(window)]
    )


def test_ras_and_lps_lie_the_same_way(tmp_path):
    lps = {
        "z": "inferior-to-superior",
        "y": "anterior-to-posterior",
        "x": "right-to-left",
    }
    ras = lps | {"y": "posterior-to-anterior", "x": "left-to-right"}
    start = {"z": 10.0, "y": 20.0, "x": 30.0}
    mirrored = {"z": 10.0, "y": -24.0, "x": -32.5}
    one = write(tmp_path / "lps.zarr", VALUES, "zyx", start=start, orient=lps)
    flipped = VALUES[:, ::-1, ::-1]
    two = write(tmp_path / "ras.zarr", flipped, "zyx", start=mirrored, orient=ras)
    # Coronal: the first axis runs from posterior to anterior.
    coronal = VALUES[:, ::-1].transpose(1, 0, 2)
    named = {"z": ras["y"], "y": lps["z"], "x": lps["x"]}
    images = [xdreg.open_ome_zarr(path, level=0) for path in (one, two)]
    for image in images:
        np.testing.assert_array_equal(image, VALUES)
        assert grid_of(image) == grid_of(images[0])
        assert image.attrs["orientation"] == "LPS"
    path = write(tmp_path / "coronal.zarr", coronal, "zyx", orient=named)
    image = xdreg.open_ome_zarr(path, level=0)
    np.testing.assert_array_equal(image, VALUES)
    assert grid_of(image).spacing == (1.0, 2.0, 0.5)
    for wrong in (lps | {"y": lps["x"]}, lps | {"y": "up-to-down"}):
        path = write(tmp_path / "wrong.zarr", VALUES, "zyx", orient=wrong)
        with pytest.raises(xdreg.StoreError, match="orientation"):
            xdreg.open_ome_zarr(path)


def test_units_as_people_write_them(tmp_path):
    units = {"z": "Micrometer", "y": "µm", "x": "microns"}
    path = write(tmp_path / "a.zarr", VALUES, "zyx", units=units)
    assert grid_of(xdreg.open_ome_zarr(path, level=0)).units == "micrometer"
    path = write(tmp_path / "b.zarr", VALUES, "zyx", units={"z": "nanometer"})
    assert grid_of(xdreg.open_ome_zarr(path, level=0)).spacing == (0.002, 1.0, 0.5)
    path = write(tmp_path / "c.zarr", VALUES, "zyx", units=dict.fromkeys("zyx", " "))
    assert grid_of(xdreg.open_ome_zarr(path, level=0)).units is None
    path = write(tmp_path / "d.zarr", VALUES[:1], "zyx", units={"z": ""})
    assert grid_of(xdreg.open_ome_zarr(path, level=0)).units == "micrometer"
    path = write(tmp_path / "e.zarr", VALUES, "zyx", units={"z": ""})
    with pytest.raises(xdreg.StoreError, match="different units"):
        xdreg.open_ome_zarr(path)


def test_systems_of_spatialdata_are_alternatives(tmp_path):
    path = write(tmp_path / "a.zarr", VALUES, "zyx", units=dict.fromkeys("zyx", "unit"))
    document = json.loads((path / ".zattrs").read_text("utf-8"))
    image = document["multiscales"][0]
    image["version"] = "0.4-dev-spatialdata"
    image["coordinateTransformations"] = [
        {"type": "scale", "scale": [3.0, 3.0, 3.0], "output": {"name": "a"}},
        {"type": "identity", "output": {"name": "b"}},
    ]
    (path / ".zattrs").write_text(json.dumps(document))
    with pytest.raises(xdreg.InputError, match=r"\['a', 'b'\].*coordinate_system='a'"):
        xdreg.open_ome_zarr(path)
    grid = grid_of(xdreg.open_ome_zarr(path, level=0, coordinate_system="a"))
    assert (grid.spacing, grid.origin) == ((6.0, 3.0, 1.5), (3.0, 1.5, 0.75))
    grid = grid_of(xdreg.open_ome_zarr(path, level=0, coordinate_system="b"))
    assert (grid.spacing, grid.origin) == ((2.0, 1.0, 0.5), (1.0, 0.5, 0.25))


def test_zipped_stores_groups_and_mappings(tmp_path):
    fsspec = pytest.importorskip("fsspec")
    path = write(tmp_path / "a.zarr", VALUES, "zyx")
    inside = shutil.make_archive(tmp_path / "in", "zip", path)
    above = shutil.make_archive(tmp_path / "top", "zip", tmp_path, "a.zarr")
    shutil.copy(inside, tmp_path / "a.ozx")
    for store in (
        inside,
        above,
        tmp_path / "a.ozx",
        zarr.open_group(path),
        zarr.storage.LocalStore(path),
        fsspec.get_mapper(str(path)),
    ):
        np.testing.assert_array_equal(xdreg.open_ome_zarr(store, level=0), VALUES)


def test_windows_of_any_order_and_direction():
    class Source:
        shape, dtype, chunks = VALUES.shape, VALUES.dtype, (2, 2, 2)

        def __getitem__(self, index):
            assert all(i.step is None or i.step > 0 for i in index if type(i) is slice)
            return VALUES[index]

    array = Reordered(Source(), (2, 0, 1), (True, False, True))
    expected = VALUES.transpose(2, 0, 1)[::-1, :, ::-1]
    for index in (
        (slice(None), slice(1, 3), slice(0, 5, 2)),
        (2, slice(None), slice(4, 5)),
        (slice(1, 6, 3), 0, -1),
        (slice(3, 3), slice(None), slice(None)),
    ):
        np.testing.assert_array_equal(array[index], expected[index])
