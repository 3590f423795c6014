"""Planes are cut where there is something to see, and little is read for them."""

import dask.array
import numpy as np
import pytest
import xarray as xr

import xdreg
from tests.helpers.fields import DIMS, Known, moving_like
from xdreg.coordinates import coordinates, grid_of
from xdreg.fields.field import make_field, open_displacement
from xdreg.fields.measures import jacobian_determinant
from xdreg.fields.warp import warp
from xdreg.grid import Grid
from xdreg.views.field_planes import field_plane
from xdreg.views.viewed import Viewed, sampled, viewed_pair


def grid_like(shape, spacing=1.0, units="micrometer"):
    ndim = len(shape)
    return Grid(DIMS[-ndim:], tuple(shape), (spacing,) * ndim, (0.0,) * ndim, units)


def image_on(grid, data):
    return xr.DataArray(data, dims=grid.dims, coords=coordinates(grid))


class Counted:
    """A lazy pyramid that counts the voxels made of each level."""

    def __init__(self, shape, levels, chunk=64):
        self.read = dict.fromkeys(range(levels), 0)
        nodes = {}
        for level in range(levels):
            grid = grid_like([n >> level for n in shape], float(1 << level))
            # Dask makes all tasks of a level at once: few of those that nobody reads.
            size = chunk if level == levels - 1 else 8 * chunk
            chunks = dask.array.core.normalize_chunks(size, grid.shape)
            data = dask.array.map_blocks(
                self._make, chunks=chunks, dtype=np.uint16, level=level,
                meta=np.empty((0,) * len(shape), np.uint16),
            )  # fmt: skip
            nodes[f"scale{level}"] = xr.Dataset({"image": image_on(grid, data)})
        self.tree = xr.DataTree.from_dict(nodes)

    def _make(self, level, block_info=None):
        shape = block_info[None]["chunk-shape"]
        self.read[level] += int(np.prod(shape))
        return np.ones(shape, np.uint16)


def test_of_a_huge_pair_a_plane_of_a_coarse_level_is_read():
    shape = (8192, 8192, 8192)
    images = [Counted(shape, 5), Counted(shape, 5)]
    coarse = grid_like((5, 5, 5), 2048.0)
    values = np.zeros((3, *coarse.shape), np.float32)
    field = make_field(values, coarse, grid_like(shape))
    fixed, moving = viewed_pair(field, *(image.tree for image in images))
    plane = fixed.plane("y")
    assert plane.position == pytest.approx(4096, abs=16)
    for viewed in (fixed, moving):
        assert sampled(viewed, plane, open_displacement(field)).shape == (512, 512)
    for image in images:
        *finer, coarsest = image.read.values()
        # A plane of chunks, some of them read for two tiles; never a finer level.
        assert not any(finer)
        assert 512 * 512 <= coarsest <= 4 * 512 * 512 * 64


def test_of_a_huge_field_the_plane_and_its_neighbours_are_read():
    made = []

    def make(block_info=None):
        made.append(block_info[None]["chunk-location"])
        return np.zeros(block_info[None]["chunk-shape"], np.float32)

    grid = grid_like((240, 240, 240))
    chunks = dask.array.core.normalize_chunks((3, 40, 40, 40), (3, *grid.shape))
    data = dask.array.map_blocks(
        make, chunks=chunks, dtype=np.float32, meta=np.empty((0,) * 4, np.float32)
    )
    field_plane(make_field(data, grid), "x", 100.0)
    planes = [place for place in made if place[3] == 2]
    # Beside it a few single points, to which the affine part is fitted.
    assert len(set(planes)) == 36
    assert len({place for place in made if place[3] != 2}) <= 4 * 4 * 3


def test_an_image_without_levels_is_read_every_so_many_voxels():
    grid = grid_like((3000, 2400))
    data = dask.array.ones(grid.shape, chunks=500, dtype=np.uint8)
    viewed = Viewed(image_on(grid, data), "fixed", grid)
    plane = viewed.plane()
    assert plane.shape == (600, 480)
    assert plane.extent == (-0.5, 2399.5, 2999.5, -0.5) or plane.grid.spacing == (5, 5)
    assert (sampled(viewed, plane) == 1).all()


@pytest.mark.parametrize("cut", ["z", "y", "x"])
def test_a_plane_shows_what_warping_gives(cut):
    known = Known(3, 20)
    moving = moving_like(known)
    rng = np.random.default_rng(0)
    moving = moving.copy(data=rng.random(moving.shape).astype(np.float32))
    fixed = image_on(known.fixed, np.zeros(known.fixed.shape, np.float32))
    pair = viewed_pair(known.field, fixed, moving)
    plane = pair[0].plane(cut)
    axis = known.fixed.dims.index(cut)
    index = round(
        (plane.position - known.fixed.origin[axis]) / known.fixed.spacing[axis]
    )
    whole = warp(known.field, moving, fill_value=np.nan).isel({cut: index})
    found = sampled(pair[1], plane, open_displacement(known.field))
    np.testing.assert_allclose(found, whole, atol=1e-4)
    assert plane.dims == tuple(d for d in known.fixed.dims if d != cut)


def test_the_plane_lies_in_the_middle_of_what_the_image_shows():
    grid = grid_like((60, 50, 40))
    values = np.zeros(grid.shape, np.float32)
    values[40:50, 5:15, 30:36] = np.random.default_rng(0).random((10, 10, 6))
    centre = Viewed(image_on(grid, values), "fixed", grid).centre
    np.testing.assert_allclose(centre, (45, 10, 33), atol=1.5)
    empty = Viewed(image_on(grid, 0 * values), "fixed", grid)
    np.testing.assert_allclose(empty.centre, grid.centre)


def test_a_field_in_a_plane_is_that_of_the_whole():
    known = Known(3, 20)
    found = field_plane(known.field, "x", 40.0)
    index = round((40.0 - known.grid.origin[2]) / known.grid.spacing[2])
    whole = known.field.displacement.values[..., index]
    np.testing.assert_array_equal(found.displacement, whole)
    jacobian = jacobian_determinant(known.field).values[..., index]
    np.testing.assert_array_equal(found.jacobian, jacobian)
    # Its affine part is a turn; what is left are the waves.
    assert np.abs(found.local).max() < 3 * known.amplitude
    assert np.abs(found.displacement).max() > 5 * known.amplitude


def test_a_fold_does_not_fall_between_two_pixels():
    grid = grid_like((5000, 40))
    values = np.zeros((2, *grid.shape), np.float32)
    values[0, 3001] = 3.0
    found = field_plane(make_field(values, grid))
    assert found.plane.shape == (1000, 8)
    folds = np.unique(np.nonzero(found.jacobian <= 0)[0])
    np.testing.assert_array_equal(folds, [600])


def test_channels_are_those_that_were_registered():
    pair = xdreg.datasets.phantom_pair((40, 44), amplitude=1.0)
    empty = xr.zeros_like(pair.fixed)
    fixed, moving = (
        xr.concat([empty, image, empty], "c").transpose("c", "y", "x").astype(np.uint16)
        for image in (pair.fixed, pair.moving)
    )
    field = xdreg.register(
        fixed, moving, channel=1, stages=[xdreg.Translation(metric="lncc")],
        metric="lncc", progress=False,
    )  # fmt: skip
    viewed = viewed_pair(field, fixed, moving)[0]
    assert viewed.select == {"c": 1}
    np.testing.assert_allclose(sampled(viewed, viewed.plane()), pair.fixed, rtol=1e-5)
    bare = make_field(field.displacement.data, grid_of(field.displacement[0]))
    with pytest.raises(xdreg.InputError, match="3 channels"):
        viewed_pair(bare, fixed, moving)
    assert viewed_pair(bare, fixed, moving, channel=2)[1].select == {"c": 2}


def test_what_cannot_be_shown_is_named():
    known = Known(3)
    fixed = image_on(known.fixed, np.zeros(known.fixed.shape))
    with pytest.raises(xdreg.InputError, match="cut must be one of 'z', 'y', 'x'"):
        Viewed(fixed, "fixed", known.fixed).plane("w")
    with pytest.raises(xdreg.InputError, match="a position along 'y' from"):
        Viewed(fixed, "fixed", known.fixed).plane("y", 1e6)
    with pytest.raises(xdreg.InputError, match="fixed has dimensions"):
        Viewed(fixed.isel(z=0, drop=True), "fixed", known.fixed)
    flat = Known(2)
    plane = image_on(flat.fixed, np.zeros(flat.fixed.shape))
    with pytest.raises(xdreg.InputError, match="leave out cut"):
        Viewed(plane, "fixed", flat.fixed).plane("y")
