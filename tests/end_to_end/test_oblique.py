"""Oblique volumes: along their own axes inside, in the world outside."""

import itk
import numpy as np
import pytest
import scipy.spatial

import xdreg
from tests.helpers.images import body, unit_grid
from xdreg.coordinates import grid_of

AXES = ("z", "y", "x")
SPACING, ORIGIN = (2.0, 1.5, 1.0), (30.0, -20.0, 50.0)


def rotation(*degrees):
    """Return a rotation in dims order."""
    turn = scipy.spatial.transform.Rotation.from_euler("xyz", degrees, degrees=True)
    return turn.as_matrix()


TURNED, OTHER = rotation(20, -8, 5), rotation(11, 14, -9)


def itk_volume(values, direction, origin=ORIGIN):
    """Return an image of ITK; direction and origin in dims order."""
    image = itk.image_from_array(np.asarray(values, np.float32))
    image.SetSpacing(SPACING[::-1])
    image.SetOrigin(origin[::-1])
    turn = np.ascontiguousarray(direction[::-1, ::-1])
    image.SetDirection(itk.matrix_from_array(turn))
    return image


def world(image, index):
    """Return where ITK has a voxel, in dims order."""
    point = image.TransformIndexToPhysicalPoint([int(i) for i in index[::-1]])
    return np.array(list(point))[::-1]


STILL = np.eye(4)


def content(direction, motion=STILL, origin=ORIGIN):
    """Return a body of blobs in the world, after a motion, as a turned scan has it."""
    shape = (22, 30, 40)
    index = np.moveaxis(np.indices(shape), 0, -1) * SPACING
    points = index @ direction.T + origin
    back = np.linalg.inv(motion)
    points = points @ back[:3, :3].T + back[:3, 3]
    middle = TURNED @ (np.multiply(shape, SPACING) / 2) + ORIGIN
    source = body(unit_grid((60, 60, 60)))
    places = np.moveaxis(points - middle + 30, -1, 0)
    values = scipy.ndimage.map_coordinates(source.values, places, order=3)
    return itk_volume(values * 100, direction, origin)


def centred(direction):
    """Return the origin of a scan around the same middle, turned otherwise."""
    half = np.multiply((22, 30, 40), SPACING) / 2
    return tuple(TURNED @ half + ORIGIN - direction @ half)


@pytest.mark.parametrize("flip", [(1, 1, 1), (-1, 1, -1)])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_itk_s_physical_points(flip, order, tmp_path):
    values = np.arange(5 * 6 * 7).reshape(5, 6, 7)
    direction = (TURNED * flip)[:, order]
    volume = itk_volume(values, direction)
    image = xdreg.from_itk_image(volume)
    itk.imwrite(volume, str(tmp_path / "a.nrrd"))
    for one in (
        image,
        xdreg.open_image(tmp_path / "a.nrrd"),
        image.isel(z=slice(1, 4)) + 0,
    ):
        grid = grid_of(one)
        again = xdreg.to_itk_image(one)
        for index in [(0, 0, 0), (2, 1, 3)]:
            place = grid.to_world[:3, :3] @ grid.index_to_physical(index)
            np.testing.assert_allclose(world(again, index), place, atol=1e-9)
            value = int(one.values[index])
            true = world(volume, np.unravel_index(value, values.shape))
            np.testing.assert_allclose(place, true, atol=1e-5)


def test_nibabel_s_physical_points(tmp_path):
    nibabel = pytest.importorskip("nibabel")
    values = np.arange(5 * 6 * 7, dtype=np.int16).reshape(5, 6, 7)
    affine = np.eye(4)
    affine[:3, :3] = rotation(9, 21, -14) * (0.9, 1.1, 3.0)
    affine[:3, 3] = -40, 33, 12
    nibabel.save(nibabel.Nifti1Image(values, affine), tmp_path / "a.nii.gz")
    image = xdreg.open_image(tmp_path / "a.nii.gz")
    grid = grid_of(image)
    for index in [(0, 0, 0), (4, 1, 6), (2, 5, 3)]:
        found = np.argwhere(image.values == values[index])[0]
        place = (grid.to_world[:3, :3] @ grid.index_to_physical(found))[::-1]
        np.testing.assert_allclose(
            place * (-1, -1, 1), affine[:3] @ (*index, 1), atol=1e-5
        )


def motion_about_the_middle():
    motion = np.eye(4)
    motion[:3, :3] = rotation(0, 3, 2)
    middle = TURNED @ (np.multiply((22, 30, 40), SPACING) / 2) + ORIGIN
    motion[:3, 3] = middle - motion[:3, :3] @ middle + (1.2, -2.1, 1.7)
    return motion


@pytest.mark.parametrize(
    ("direction", "registered"), [(TURNED, False), (OTHER, True), (np.eye(3), False)]
)
def test_a_pair_of_scans(direction, registered, tmp_path):
    motion = motion_about_the_middle()
    fixed = xdreg.from_itk_image(content(TURNED))
    other = content(direction, motion, centred(direction))
    moving = xdreg.from_itk_image(other)
    if registered:
        options = {"stages": "rigid", "metric": "lncc", "progress": False}
        field = xdreg.register(fixed, moving, **options)
    else:
        # A matrix is in the world; the axes of the moving image are found later.
        field = xdreg.compose(motion, like=fixed)
    grid = grid_of(fixed)
    index = np.random.default_rng(0).uniform(0.3, 0.7, (50, 3)) * grid.shape
    points = grid.index_to_physical(index) @ TURNED.T
    true = points @ motion[:3, :3].T + motion[:3, 3]
    found = field.dreg.transform_points(points)
    assert np.abs(found - true).max() < 0.1
    np.testing.assert_allclose(
        field.dreg.transform_points(found, inverse=True), points, atol=1e-3
    )
    # Along the axes of the images.
    own = field.dreg.transform_points(points @ TURNED, frame="image")
    end = direction if registered else TURNED
    np.testing.assert_allclose(own @ end.T, found, atol=1e-3)
    # Tools of ITK, in memory and from files.
    transform = field.dreg.to_itk_transform()
    field.dreg.to_file(tmp_path / "a.nrrd")
    xdreg.save(field, tmp_path / "a.ome.zarr")
    again = xdreg.open_transform(tmp_path / "a.nrrd", like=fixed)
    stored = xdreg.open_field(tmp_path / "a.ome.zarr")
    for p, q in zip(points[:5], found[:5], strict=True):
        by_itk = list(transform.TransformPoint(p[::-1].tolist()))[::-1]
        np.testing.assert_allclose(by_itk, q, atol=1e-3)
    for one in (again, stored):
        np.testing.assert_allclose(one.dreg.transform_points(points), found, atol=1e-3)
    warped = field.dreg.warp(moving)
    assert grid_of(warped).is_parallel(grid)
    for one in (again, stored):
        np.testing.assert_allclose(one.dreg.warp(moving), warped, atol=0.3)
    # ITK's own resampling is the same.
    resampled = itk.resample_image_filter(
        other,
        transform=transform,
        reference_image=content(TURNED),
        use_reference_image=True,
    )
    inner = (slice(4, -4),) * 3
    np.testing.assert_allclose(
        warped.values[inner], itk.array_from_image(resampled)[inner], atol=0.3
    )
    back = field.dreg.inverse(like=moving)
    np.testing.assert_allclose(back.dreg.transform_points(found), points, atol=2e-2)


def test_a_store_keeps_the_direction(tmp_path):
    image = xdreg.from_itk_image(itk_volume(np.ones((4, 5, 6)), TURNED))
    xdreg.save(image, tmp_path / "a.zarr", version="0.4")
    again = xdreg.open_ome_zarr(tmp_path / "a.zarr", level=0)
    assert grid_of(again).direction == grid_of(image).direction
    assert grid_of(again.isel(z=0)).direction is None
    damaged = image.assign_coords(direction="[[1, 0], [0")
    with pytest.raises(xdreg.InputError, match="direction"):
        grid_of(damaged)
    mask = xdreg.from_itk_image(itk_volume(np.ones((4, 5, 6)), OTHER))
    with pytest.raises(xdreg.InputError, match="not parallel"):
        xdreg.plan(image, image, fixed_mask=mask)


@pytest.mark.parametrize("signs", [(1, 1), (-1, 1), (-1, -1)])
def test_a_nifti_by_way_of_ngff_zarr_is_not_mirrored(signs, tmp_path):
    nibabel = pytest.importorskip("nibabel")
    nz = pytest.importorskip("ngff_zarr")
    values = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)
    nifti = nibabel.Nifti1Image(values, np.diag([*signs, 2.0, 1.0]))
    nibabel.save(nifti, tmp_path / "a.nii")
    opened = xdreg.open_image(tmp_path / "a.nii")
    by_itk = nz.itk_image_to_ngff_image(itk.imread(str(tmp_path / "a.nii")))
    for one in (by_itk, nz.nibabel_image_to_ngff_image(nifti)):
        levels = nz.to_multiscales(one, scale_factors=[])
        nz.to_ngff_zarr(str(tmp_path / "a.zarr"), levels, version="0.5")
        stored = xdreg.open_ome_zarr(tmp_path / "a.zarr", level=0)
        np.testing.assert_array_equal(stored.squeeze(), opened)


def test_pictures_refuse_an_image_turned_otherwise():
    fixed, turned = (
        xdreg.from_itk_image(itk_volume(np.ones((8, 9, 10)), direction))
        for direction in (TURNED, OTHER)
    )
    field = xdreg.compose(np.eye(4), like=fixed)
    with pytest.raises(xdreg.InputError, match="moving has the direction"):
        xdreg.make_scene(field, fixed, turned)
    xdreg.make_scene(field, fixed, fixed)
