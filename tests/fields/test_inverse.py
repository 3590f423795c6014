"""The inverse field, and points back, against inverses known in closed form."""

import dask
import dask.array
import numpy as np
import pytest
import xarray as xr

import xdreg
from tests.helpers.fields import Known, Watched, folding, image, moving_like, unreadable
from xdreg.fields import inverse as inverse_field
from xdreg.fields.diagnostics import status_counts
from xdreg.fields.displacement import make_field
from xdreg.fields.field import field_grid, fixed_grid, moving_grid
from xdreg.fields.preimage import Preimage
from xdreg.fields.reader import FieldReader
from xdreg.grid import Grid
from xdreg.numerics import kernels
from xdreg.partition import Partition

CASES = [(2, 0), (2, 60), (3, 0), (3, 60), (3, 150)]


@pytest.mark.parametrize(("ndim", "degrees"), CASES)
def test_the_inverse_is_that_in_closed_form(ndim, degrees):
    known = Known(ndim, degrees)
    inverse = known.field.dreg.inverse(like=moving_like(known), step=1).compute()
    points = kernels.grid_points(field_grid(inverse))
    truth = known.back(points)
    inside = known.holds(truth)
    assert 0.05 < inside.mean() < 1
    found = points + inverse.displacement.values.reshape(ndim, -1).T
    # What interpolating the field costs.
    assert np.abs(found - truth)[inside].max() < 0.06
    tolerance = 1.01e-4 * max(known.grid.spacing)
    assert float(inverse.block_max_residual.max()) < tolerance
    assert set(status_counts(inverse)) <= {"success", "no_overlap"}
    share = float(inverse.block_outside.mean())
    if inverse.block_outside.size == 1:
        assert share == pytest.approx(1 - inside.mean(), abs=0.02)


def test_a_fold_is_said_and_filled_smoothly():
    field = folding()
    assert float(field.dreg.folded_share()) > 0
    inverse = field.dreg.inverse(like=image(field_grid(field))).compute()
    assert inverse.block_status.values.ravel().tolist() == [5, 0]
    assert status_counts(inverse) == {"success": 1, "folded": 1}
    assert 0 < float(inverse.block_folded[0, 0]) < 0.1
    assert float(inverse.block_max_residual[0, 0]) > 0.5
    assert float(inverse.block_max_residual[1, 0]) < 1e-3
    values = inverse.displacement.values
    assert np.isfinite(values).all()
    # It is steep, for the field is squeezed there, but does not jump; elsewhere it
    # undoes the field.
    assert max(np.abs(np.diff(values, axis=axis)).max() for axis in (1, 2)) < 8
    assert float(inverse.dreg.jacobian_determinant().min()) > 0
    assert np.abs(values[:, 100:]).max() < 1e-4
    with pytest.warns(UserWarning, match="have no inverse"):
        found = field.dreg.transform_points([[52.7, 45.0], [300.0, 45.0]], inverse=True)
    assert np.isnan(found[0]).all()
    np.testing.assert_allclose(found[1], [300, 45], atol=1e-3)


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("turned", [0, 1])
def test_a_mirrored_field_has_an_inverse(ndim, turned):
    grid = Grid(("z", "y", "x")[-ndim:], (20,) * ndim, (1.0,) * ndim, (0.0,) * ndim)
    points = kernels.grid_points(grid).T.reshape(ndim, *grid.shape)
    moved = points.copy()
    if turned:
        # Two axes exchanged: a mirror at the diagonal.
        moved[-2:] = points[-2:][::-1]
    else:
        moved[-1] = 19 - points[-1]
    moved += 0.5 * np.sin(points[::-1] / 3)
    field = make_field((moved - points).astype(np.float32), grid)
    assert float(field.dreg.folded_share()) == 0
    assert float(field.dreg.jacobian_determinant().min()) > 0.2
    assert float(field.dreg.statistics().folded_share.max()) == 0
    inverse = field.dreg.inverse(like=image(grid)).compute()
    assert "folded" not in status_counts(inverse)
    inner = np.random.default_rng(0).uniform(4, 15, (50, ndim))
    there = field.dreg.transform_points(inner)
    for back in (
        field.dreg.transform_points(there, inverse=True),
        inverse.dreg.transform_points(there),
    ):
        np.testing.assert_allclose(back, inner, atol=0.05)


def test_a_fold_of_a_mirrored_field_is_found():
    field = folding()
    grid = field_grid(field)
    place = grid.axis("y")
    values = field.displacement.values.copy()
    values[0] = (place[0] + place[-1] - 2 * place)[:, None] - values[0]
    mirrored = make_field(values, grid)
    share = float(field.dreg.folded_share())
    assert float(mirrored.dreg.folded_share()) == pytest.approx(share)
    inverse = mirrored.dreg.inverse(like=image(grid)).compute()
    assert status_counts(inverse) == {"success": 1, "folded": 1}


def test_bits_do_not_depend_on_chunks_scheduler_or_store(tmp_path, monkeypatch):
    monkeypatch.setitem(inverse_field.FIELD_CHUNK, 3, 24)
    known = Known(3, 20)
    like = moving_like(known)
    whole = known.field.dreg.inverse(like=like, step=2).compute(scheduler="synchronous")
    assert whole.block_status.size == 12
    chunked = known.field.chunk(z=5, y=7, x=6)
    known.field.dreg.to_ome_zarr(tmp_path / "field.ome.zarr")
    stored = xdreg.open_field(tmp_path / "field.ome.zarr")
    for field in (chunked, stored):
        with dask.config.set(scheduler="threads", num_workers=3):
            other = field.dreg.inverse(like=like.chunk(z=9, y=8, x=7), step=2).compute()
        xr.testing.assert_identical(other, whole)


def test_graphs_read_nothing_and_blocks_read_what_they_need(monkeypatch):
    monkeypatch.setitem(inverse_field.FIELD_CHUNK, 3, 16)
    known = Known(3, 10)
    like = moving_like(known)
    unreadable(known.field).dreg.inverse(like=like)
    source = Watched(known.field.displacement.values)
    blocks = Partition(known.grid, (16,) * 3, (0,) * 3, (1,) * 3)
    task = inverse_field._Task(FieldReader(source, known.grid), known.fixed, blocks)
    displacement, _ = inverse_field._solved_blocks(task)
    assert not source.windows
    displacement[:, :4, :4, :4].compute(scheduler="synchronous")
    assert max(np.prod(w) for w in source.windows) < 0.9 * known.grid.size * 3
    source.windows.clear()
    displacement[:, 16:, 16:, 16:].compute(scheduler="synchronous")
    assert source.windows


def test_what_saves_an_inverse_solves_each_block_once(tmp_path, monkeypatch):
    monkeypatch.setitem(inverse_field.FIELD_CHUNK, 3, 24)
    calls = []
    solve = Preimage.window
    monkeypatch.setattr(
        Preimage, "window", lambda *args: calls.append(1) or solve(*args)
    )
    known = Known(3)
    inverse = known.field.dreg.inverse(like=moving_like(known))
    inverse.dreg.to_ome_zarr(tmp_path / "inverse.ome.zarr")
    assert len(calls) == inverse.block_status.size > 1
    again = xdreg.open_field(tmp_path / "inverse.ome.zarr")
    xr.testing.assert_identical(again.load(), inverse.load())


def test_an_inverse_is_saved_by_other_processes(tmp_path):
    known = Known(2)
    inverse = known.field.dreg.inverse(like=moving_like(known))
    with dask.config.set(scheduler="processes", num_workers=1):
        inverse.dreg.to_ome_zarr(tmp_path / "inverse.ome.zarr")
    again = xdreg.open_field(tmp_path / "inverse.ome.zarr")
    xr.testing.assert_identical(again.load(), inverse.load())


def test_a_field_of_one_plane_and_one_of_two_points_per_axis():
    plane = Grid(("z", "y", "x"), (1, 20, 20), (2.0, 1.0, 1.0), (5.0, 0.0, 0.0))
    values = np.zeros((3, *plane.shape), np.float32)
    values[0], values[2] = 0.5, np.linspace(-3, 3, 20)
    few = Grid(("y", "x"), (2, 2), (30.0, 30.0), (0.0, 0.0))
    corners = 3 + 0.1 * kernels.grid_points(few).T.reshape(2, 2, 2)
    for field in (make_field(values, plane), make_field(corners, few)):
        ndim = len(field_grid(field).dims)
        point = [[5.0, 9.3, 4.2]]
        there = field.dreg.transform_points(np.array(point)[:, -ndim:])
        back = field.dreg.transform_points(there, inverse=True)
        np.testing.assert_allclose(back, np.array(point)[:, -ndim:], atol=1e-3)
        like = image(field_grid(field))
        inverse = field.dreg.inverse(like=like).compute()
        assert float(inverse.block_max_residual.max()) < 0.01


def test_outside_the_fixed_image_the_affine_part_goes_on():
    known = Known(2, 60, amplitude=0.0)
    far = image(Grid(("y", "x"), (9, 9), (1.0, 1.0), (900.0, -700.0), "micrometer"))
    inverse = known.field.dreg.inverse(like=far).compute()
    assert status_counts(inverse) == {"no_overlap": 1}
    points = kernels.grid_points(field_grid(inverse))
    found = points + inverse.displacement.values.reshape(2, -1).T
    np.testing.assert_allclose(found, known.back(points), rtol=1e-4)


def test_the_grid_is_that_of_the_moving_image_in_the_units_of_the_field():
    known = Known(3)
    like = moving_like(known)
    inverse = known.field.dreg.inverse(like=like, step=(3, 2, 3))
    # Voxels of the moving image are 1.2, 0.9 and 1 apart.
    np.testing.assert_allclose(field_grid(inverse).spacing, (3.6, 1.8, 3.0))
    assert fixed_grid(inverse).shape == like.shape
    assert moving_grid(inverse) == known.fixed
    millimetres = like.assign_coords(
        {d: (d, like[d].values / 1000, {"units": "millimeter"}) for d in like.dims}
    )
    other = known.field.dreg.inverse(like=millimetres, step=(3, 2, 3))
    assert other.displacement.attrs["units"] == "micrometer"
    np.testing.assert_allclose(other.displacement, inverse.displacement, atol=1e-3)
    again = inverse.dreg.inverse(step=2).compute()
    assert field_grid(again) == known.grid
    difference = (again.displacement - known.field.displacement).values
    assert np.abs(difference).mean() < 0.1


def test_points_between_those_of_the_image_undo_a_bend_better(tmp_path):
    known = Known(3)
    points = np.random.default_rng(0).uniform(*known.fixed.bounds, (2000, 3))
    there = known.field.dreg.transform_points(points)
    errors = []
    for step in (4, 2, 1):
        inverse = known.field.dreg.inverse(like=moving_like(known), step=step)
        path = tmp_path / f"{step}.ome.zarr"
        inverse.dreg.to_ome_zarr(path)
        back = xdreg.open_field(path).dreg.transform_points(there)
        errors.append(np.nanmean(np.linalg.norm(back - points, axis=1)))
    # Straight lines miss a curve by the square of their length.
    assert errors[0] > 3 * errors[1] > 9 * errors[2]


def test_mistakes_are_named():
    known = Known(3)
    with pytest.raises(xdreg.InputError, match=r"name an image: like=\.\.\."):
        known.field.dreg.inverse()
    for step in (0, -1, (1, 2), "2", float("nan")):
        with pytest.raises(xdreg.InputError, match="step must be a number above zero"):
            known.field.dreg.inverse(moving_like(known), step=step)
    with pytest.raises(xdreg.InputError, match="dimensions"):
        known.field.dreg.inverse(moving_like(Known(2)))
