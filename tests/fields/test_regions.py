"""Volumes of regions in both images, and the regions of points."""

import dask.array
import numpy as np
import pandas as pd
import pytest

import xdreg
from tests.helpers.atlases import CORE, LEFT, RIGHT, write_atlas
from xdreg.coordinates import grid_of
from xdreg.grid import Grid


@pytest.fixture(scope="module")
def atlas(tmp_path_factory):
    """Return the folder of an atlas, its annotation, and a field sample → atlas."""
    folder = tmp_path_factory.mktemp("atlas")
    annotation = write_atlas(folder)
    # The sample is half as large along x, and elsewhere.
    sample = Grid(
        ("z", "y", "x"), (40, 48, 56), (25.0, 12.5, 6.25), (0.0, 100, 30), "micrometer"
    )
    matrix = np.diag([1.0, 1.0, 2.0, 1.0])
    matrix[:3, 3] = 0.0, -100.0, -60.0
    field = xdreg.compose(matrix, like=sample)
    return (
        folder,
        annotation,
        field.assign_attrs(
            moving_grid=xdreg.compose(matrix, like=grid_of(annotation)).attrs[
                "fixed_grid"
            ]
        ),
    )


def test_volumes_of_an_atlas_in_a_sample(atlas):
    folder, annotation, field = atlas
    for name in ("structures.csv", "structures.json"):
        table = field.dreg.region_volumes(annotation, folder / name)
        assert table.index.tolist() == [LEFT, RIGHT, CORE]
        assert table.attrs["units"] == "micrometer^3"
        assert table.loc[CORE, "acronym"] == "C"
        assert table.loc[LEFT, "name"] == "left, a"
        own = 6 * 8 * 8 * 50 * 25 * 25.0
        assert table.loc[CORE, "moving_volume"] == own
        assert table.loc[CORE, "fixed_volume"] == pytest.approx(own / 2, rel=0.15)
    assert np.allclose(table["ratio"], table["fixed_volume"] / table["moving_volume"])


def test_volumes_of_labels_of_the_fixed_image(atlas):
    _, annotation, field = atlas
    warped = field.dreg.warp(annotation, order=0)
    assert warped.dtype == np.int32
    assert set(np.unique(warped)) == {0, LEFT, RIGHT, CORE}
    forth = xdreg.region_volumes(field, annotation, {CORE: "core"})
    back = xdreg.region_volumes(field, warped.chunk(17), {CORE: "core"}, image="fixed")
    np.testing.assert_allclose(back["fixed_volume"], forth["fixed_volume"])
    # The field doubles x.
    np.testing.assert_allclose(back["ratio"], 0.5, rtol=1e-4)
    assert back["name"].tolist()[2] == "core"
    assert back["name"].isna().tolist() == [True, True, False]


def test_volumes_do_not_depend_on_chunks_and_units(atlas):
    _, annotation, field = atlas
    whole = xdreg.region_volumes(field, annotation)
    millimetres = annotation.assign_coords(
        {d: annotation[d].astype(float) / 1000 for d in "zyx"}
    )
    for d in "zyx":
        millimetres[d].attrs["units"] = "millimeter"
    lazy = annotation.copy(data=dask.array.from_array(annotation.values, (7, 11, 5)))
    for other in (lazy, millimetres):
        table = xdreg.region_volumes(field, other)
        pd.testing.assert_frame_equal(table, whole)


def test_regions_of_points(atlas):
    folder, annotation, field = atlas
    # Voxel (9, 10, 13) of the atlas, x halved; another region; background; outside.
    cells = pd.DataFrame(
        {"x": [192.5, 80, 30, 1e4], "y": [350.0, 200, 100, 0], "z": [450.0, 450, 0, 0]},
        index=list("abcd"),
    ).assign(cell=[1, 2, 3, 4])
    found = field.dreg.point_regions(cells, annotation, folder / "structures.csv")
    assert found["label"].tolist()[:3] == [CORE, LEFT, 0]
    assert found["label"].isna().tolist() == [False, False, False, True]
    assert found["name"].tolist()[:2] == ["core", "left, a"]
    assert found.index.tolist() == list("abcd")
    assert found["cell"].tolist() == [1, 2, 3, 4]
    np.testing.assert_allclose(
        found.loc["a", ["z", "y", "x"]].astype(float), [450, 250, 325], atol=1e-2
    )
    places = found[["z", "y", "x"]].to_numpy(float)[:3]
    warped = field.dreg.warp(annotation, order=0)
    back = xdreg.point_regions(field, places, warped, inverse=True)
    assert back["label"].tolist() == [CORE, LEFT, 0]
    np.testing.assert_allclose(back["x"], cells["x"][:3], atol=1e-2)
    assert xdreg.point_regions(field, np.empty((0, 3)), annotation).shape == (0, 4)


def test_only_the_chunks_around_points_are_read(atlas):
    _, annotation, field = atlas
    read = []

    def piece(block, block_info):
        read.append(block_info[0]["chunk-location"])
        return block

    data = dask.array.from_array(annotation.values, (10, 12, 14))
    lazy = annotation.copy(data=data.map_blocks(piece, dtype=data.dtype))
    read.clear()
    xdreg.point_regions(field, [[450.0, 350.0, 192.5]], lazy)
    assert read == [(0, 0, 0)]


@pytest.mark.parametrize(
    ("change", "names", "options", "message"),
    [
        (lambda a: a.astype(float), None, {}, "labels must be whole numbers"),
        (lambda a: a.isel(z=0, drop=True), None, {}, "dimensions"),
        (lambda a: a.expand_dims(c=2), None, {}, "choose one channel"),
        (lambda a: a.assign_coords(x=a.x + 1e6), None, {}, "do not overlap"),
        (lambda a: a, None, {"image": "atlas"}, "image must be"),
        (lambda a: a, 3, {}, "names must be a table"),
        (lambda a: a, pd.DataFrame({"name": ["a"]}), {}, "one of id, label, index"),
        (lambda a: a, pd.DataFrame({"id": [1, 1]}), {}, "several rows for label 1"),
        (lambda a: a, pd.DataFrame({"id": ["a"]}), {}, "whole numbers"),
    ],
)
def test_what_is_no_atlas_is_named(atlas, change, names, options, message):
    _, annotation, field = atlas
    with pytest.raises(xdreg.InputError, match=message):
        xdreg.region_volumes(field, change(annotation), names, **options)


def test_files_of_names_that_cannot_be_read(atlas, tmp_path):
    _, annotation, field = atlas
    (tmp_path / "a.json").write_text("{", encoding="utf-8")
    for name in ("a.json", "missing.csv"):
        with pytest.raises(xdreg.StoreError, match="cannot be read"):
            xdreg.region_volumes(field, annotation, tmp_path / name)
