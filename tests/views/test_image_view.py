"""Views of an image: little is read for a plane, where there is something to see."""

import dask.array
import numpy as np
import pytest
import xarray as xr

import xdreg
from tests.helpers.fields import DIMS, Known, moving_like
from xdreg.coordinates import coordinates, grid_of
from xdreg.fields.displacement import make_field
from xdreg.fields.warp import warp
from xdreg.grid import Grid
from xdreg.views import image_view as views
from xdreg.views.image_view import image_view
from xdreg.views.scene import make_scene


def grid_like(shape, spacing=1.0, units="micrometer"):
    ndim = len(shape)
    return Grid(DIMS[-ndim:], tuple(shape), (spacing,) * ndim, (0.0,) * ndim, units)


def image_on(grid, data):
    return xr.DataArray(data, dims=grid.dims, coords=coordinates(grid))


def view_of(grid, data):
    """Return the view of an image with a field that moves nothing."""
    corners = grid.every([n - 1 for n in grid.shape])
    still = make_field(np.zeros((grid.ndim, *corners.shape), np.float32), corners, grid)
    return image_view(image_on(grid, data), "fixed", still)


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
    scene = make_scene(field, *(image.tree for image in images))
    shown = scene.plane("y")
    assert shown.plane.position == pytest.approx(4096, abs=16)
    assert shown.fixed.shape == shown.after.shape == (512, 512)
    for image in images:
        *finer, coarsest = image.read.values()
        # A plane of chunks, some of them read for two tiles; never a finer level.
        assert not any(finer)
        assert 512 * 512 <= coarsest <= 4 * 512 * 512 * 64


def test_an_image_without_levels_is_read_every_so_many_voxels():
    grid = grid_like((3000, 2400))
    data = dask.array.ones(grid.shape, chunks=500, dtype=np.uint8)
    view = view_of(grid, data)
    plane = view.plane()
    assert plane.shape == (600, 480)
    assert plane.extent == (-0.5, 2399.5, 2999.5, -0.5) or plane.grid.spacing == (5, 5)
    assert (view.pixels(plane) == 1).all()


@pytest.mark.parametrize("cut", ["z", "y", "x"])
def test_a_plane_shows_what_warping_gives(cut):
    known = Known(3, 20)
    moving = moving_like(known)
    rng = np.random.default_rng(0)
    moving = moving.copy(data=rng.random(moving.shape).astype(np.float32))
    fixed = image_on(known.fixed, np.zeros(known.fixed.shape, np.float32))
    shown = make_scene(known.field, fixed, moving).plane(cut)
    plane = shown.plane
    axis = known.fixed.dims.index(cut)
    index = round(
        (plane.position - known.fixed.origin[axis]) / known.fixed.spacing[axis]
    )
    whole = warp(known.field, moving, fill_value=np.nan).isel({cut: index})
    np.testing.assert_allclose(shown.after, whole, atol=1e-4)
    assert plane.dims == tuple(d for d in known.fixed.dims if d != cut)


def test_the_plane_lies_in_the_middle_of_what_the_image_shows():
    grid = grid_like((60, 50, 40))
    values = np.zeros(grid.shape, np.float32)
    values[40:50, 5:15, 30:36] = np.random.default_rng(0).random((10, 10, 6))
    centre = view_of(grid, values).centre
    np.testing.assert_allclose(centre, (45, 10, 33), atol=1.5)
    empty = view_of(grid, 0 * values)
    np.testing.assert_allclose(empty.centre, grid.centre)


def test_what_cannot_be_shown_is_named():
    known = Known(3)
    fixed = image_on(known.fixed, np.zeros(known.fixed.shape))
    with pytest.raises(xdreg.InputError, match="cut must be one of 'z', 'y', 'x'"):
        image_view(fixed, "fixed", known.field).plane("w")
    with pytest.raises(xdreg.InputError, match="a position along 'y' from"):
        image_view(fixed, "fixed", known.field).plane("y", 1e6)
    with pytest.raises(xdreg.InputError, match="fixed has dimensions"):
        image_view(fixed.isel(z=0, drop=True), "fixed", known.field)
    flat = Known(2)
    plane = image_on(flat.fixed, np.zeros(flat.fixed.shape))
    with pytest.raises(xdreg.InputError, match="leave out cut"):
        image_view(plane, "fixed", flat.field).plane("y")


def test_limits_are_those_of_the_whole_image(monkeypatch):
    image = xdreg.datasets.phantom_pair((40, 40)).fixed.astype("float32").load()
    image[0, 0], image[0, 1] = np.nan, 1e9
    grid = grid_of(image)
    limits = view_of(grid, image.values).limits
    assert 0 <= limits[0] < limits[1] < 1e6
    assert view_of(grid, np.full((40, 40), 5.0)).limits == (5.0, 6.0)
    # Without a level that is small enough, of its middle.
    monkeypatch.setattr(views, "MOST_OVERVIEW_VOXELS", 0)
    monkeypatch.setattr(views, "MIDDLE_VOXELS", {2: 10})
    values = np.zeros((40, 40))
    values[15:25, 15:25] = np.arange(100).reshape(10, 10)
    view = view_of(grid, values)
    low, high = view.limits
    assert 0 < low < 2 < 98 < high < 100
    # A picture of other places has its own.
    np.testing.assert_array_equal(view.stretched(np.array([[200.0, 300.0]])), [[0, 1]])
