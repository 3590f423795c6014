"""Dense grids for networks, by scipy and, where it is there, by torch."""

import numpy as np
import pytest
import scipy.ndimage

import xdreg
from tests.helpers.images import texture
from tests.helpers.interpreters import interpreter_with, run_script


def pair(ndim):
    """Return an affine field between images of different grids, and the images."""
    cut = slice(3 - ndim, None)
    shape, other = (10, 14, 18)[cut], (12, 15, 16)[cut]
    fixed = xdreg.make_image(texture(shape), (2.0, 1.0, 1.5)[cut], 5.0, "micrometer")
    moving = xdreg.make_image(
        texture(other, seed=1), (0.0015, 0.001, 0.0016)[cut], 0.0045, "millimeter"
    )
    matrix = np.eye(ndim + 1)
    matrix[:-1, :-1] += np.random.default_rng(0).normal(0, 0.02, (ndim, ndim))
    matrix[:-1, -1] = (0.8, 0.4, -0.7)[cut]
    return xdreg.compose(matrix, like=fixed), fixed, moving


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("align_corners", [True, False])
def test_positions_and_voxels(ndim, align_corners):
    field, _, moving = pair(ndim)
    warped = field.dreg.warp(moving, fill_value=np.nan).values
    inside = np.isfinite(warped)
    assert inside.mean() > 0.5
    options = {"moving": moving, "align_corners": align_corners}
    grid = field.dreg.to_grid(**options)
    assert grid.dims[-1] == "component"
    assert grid.chunks is not None
    assert grid.component.values.tolist() == ["z", "y", "x"][-ndim:][::-1]
    sizes = np.array(moving.shape).reshape(-1, *[1] * ndim)
    places = np.moveaxis(grid.values[..., ::-1].astype(float), -1, 0)
    # The formula of the documentation.
    index = (places + 1) * (sizes - 1) / 2
    if not align_corners:
        index = ((places + 1) * sizes - 1) / 2
    flow = field.dreg.to_grid(moving=moving, normalized=False)
    for where in (index, np.indices(field.displacement.shape[1:]) + flow.values):
        moved = scipy.ndimage.map_coordinates(
            moving.values, where, order=1, mode="nearest"
        )
        np.testing.assert_allclose(moved[inside], warped[inside], atol=1e-4)


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("align_corners", [True, False])
def test_torch_samples_as_xdreg_warps(ndim, align_corners, tmp_path):
    python = interpreter_with("torch", "numpy")
    field, _, moving = pair(ndim)
    warped = field.dreg.warp(moving, fill_value=np.nan).values
    inside = np.isfinite(warped)
    grid = field.dreg.to_grid(moving=moving, align_corners=align_corners)
    flow = field.dreg.to_grid(moving=moving, normalized=False)
    for name, values in (("image", moving), ("grid", grid), ("flow", flow)):
        np.save(tmp_path / f"{name}.npy", values.values)
    run_script(python, "torch_sampling", tmp_path, align_corners)
    for name in ("moved", "by_flow"):
        moved = np.load(tmp_path / f"{name}.npy")
        np.testing.assert_allclose(moved[inside], warped[inside], atol=1e-4)


def test_another_grid_and_what_is_missing():
    field, fixed, moving = pair(3)
    part = fixed.isel(z=slice(2, 5), y=slice(None, None, 2))
    whole = field.dreg.to_grid(moving=moving)
    np.testing.assert_allclose(
        field.dreg.to_grid(part, moving=moving), whole[2:5, ::2], atol=1e-5
    )
    with pytest.raises(xdreg.InputError, match=r"moving=\.\.\."):
        field.dreg.to_grid()


def test_a_dense_file_has_every_voxel(tmp_path):
    field, fixed, _ = pair(3)
    coarse = xdreg.compose(field, like=fixed[::2, ::2, ::2])
    coarse.attrs["fixed_grid"] = field.attrs["fixed_grid"]
    coarse.dreg.to_file(tmp_path / "warp.nii.gz", dense=True)
    dense = xdreg.open_transform(tmp_path / "warp.nii.gz")
    assert dense.displacement.shape == (3, *fixed.shape)
