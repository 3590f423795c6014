"""The engine of local correlation: recovery of known fields, masks, threads."""

import numpy as np
import pytest
import scipy.ndimage

import xdreg
from tests.helpers.images import image, texture, unit_grid
from xdreg.engines.local_correlation import local_correlation

ONE = np.ones(3, np.float32)
THREADS = (1, 2, 3)


def displacement(fixed, moving, **options):
    """Return the displacement that the engine finds."""
    return local_correlation(fixed, moving, **options).displacement


def test_known_translation_is_found():
    values = texture((40, 44, 48), 2.0)
    shift = (1.5, -2.0, 1.0)
    moved = scipy.ndimage.shift(values, shift, order=3, mode="nearest")
    field = displacement(image(values), image(moved))
    inner = field.values[:, 8:-8, 8:-8, 8:-8]
    assert np.abs(inner - np.reshape(shift, (3, 1, 1, 1))).mean() < 0.05


@pytest.mark.parametrize("planes", [2, 3, 5])
def test_a_thin_stack_has_boxes_as_deep_as_it_is(planes):
    values = texture((planes, 60, 64), 2.0)
    moved = scipy.ndimage.shift(values, (0, 1.5, -1.0), order=3, mode="nearest")
    field = displacement(image(values), image(moved)).values[:, :, 8:-8, 8:-8]
    expected = np.reshape((0, 1.5, -1.0), (3, 1, 1, 1))
    assert np.abs(field - expected).mean() < 0.1


@pytest.mark.parametrize("shape", [(96, 104), (64, 72, 80)])
def test_known_smooth_field_is_found_without_folding(shape):
    pair = xdreg.datasets.phantom_pair(shape, amplitude=2.0)
    field = displacement(pair.fixed.compute(), pair.moving.compute())
    inside = pair.foreground.values
    error = np.linalg.norm(field.values - pair.displacement.values, axis=0)[inside]
    start = np.linalg.norm(pair.displacement.values, axis=0)[inside]
    # One level alone, the field up to three voxels: wide boxes blur it more than
    # narrow ones: those of five voxels gave 0.23.
    assert np.median(error) < 0.3
    assert error.mean() < 0.25 * start.mean()
    dataset = field.rename("displacement").to_dataset()
    assert float(xdreg.jacobian_determinant(dataset).min()) > 0


def test_contrast_and_its_sign_do_not_matter():
    pair = xdreg.datasets.phantom_pair((64, 72), amplitude=2.0)
    fixed, moving = (v.astype("float32").compute() for v in (pair.fixed, pair.moving))
    plain = displacement(fixed, moving)
    other = displacement(1e4 - 300 * fixed, 1e-3 * moving)
    assert np.abs(plain.values - other.values).max() < 0.02


def test_voxels_outside_the_mask_contribute_nothing():
    values = texture((32, 36, 40), 2.0)
    moved = scipy.ndimage.shift(values, (1, 0, 0), order=3, mode="nearest")
    mask = np.zeros(values.shape, bool)
    mask[:, :, :28] = True
    fields = []
    for junk in (0.0, 1e4):
        spoilt = np.where(
            mask, values, np.float32(junk) * texture(values.shape, seed=9)
        )
        fields.append(displacement(image(spoilt, mask=mask), image(moved, mask=mask)))
    np.testing.assert_array_equal(fields[0].values, fields[1].values)
    assert fields[0].values[0, 8:-8, 8:-8, 6:20].mean() == pytest.approx(1, abs=0.1)


def test_nothing_moves_where_nothing_counts():
    values = texture((24, 24, 24))
    mask = np.zeros(values.shape, bool)
    field = displacement(image(values, mask=mask), image(values + 1, mask=mask))
    assert not field.values.any()


@pytest.mark.parametrize("order", [("y", "x", "z"), ("x", "z", "y")])
def test_transposed_axes_give_the_same_answer(order):
    pair = xdreg.datasets.phantom_pair((30, 34, 38), amplitude=2.0)
    fixed, moving = pair.fixed.compute().values, pair.moving.compute().values
    axes = tuple("zyx".index(d) for d in order)
    plain = displacement(image(fixed), image(moving)).values
    turned = displacement(
        image(fixed.transpose(axes).copy()), image(moving.transpose(axes).copy())
    ).values
    back = np.argsort(axes)
    turned = turned[back].transpose(0, *(back + 1))
    # Sums in another order differ in the last bit, and steps carry that on.
    assert np.abs(plain - turned).max() < 0.02


@pytest.mark.parametrize("threads", THREADS[1:])
def test_any_number_of_threads_gives_the_same_bits(threads):
    pair = xdreg.datasets.phantom_pair((29, 34, 38), amplitude=2.0)
    fixed, moving = pair.fixed.compute(), pair.moving.compute()
    expected = displacement(fixed, moving, iterations=15)
    found = displacement(fixed, moving, iterations=15, threads=threads)
    np.testing.assert_array_equal(found.values, expected.values)


def test_a_plane_is_a_slab_of_one_slice():
    pair = xdreg.datasets.phantom_pair((60, 72), amplitude=2.0)
    fixed, moving = pair.fixed.compute(), pair.moving.compute()
    flat = displacement(fixed, moving)
    lifted = [
        image(v.values[None], unit_grid((1, *v.shape), (7.0, 1.0, 1.0)))
        for v in (fixed, moving)
    ]
    slab = displacement(*lifted)
    np.testing.assert_array_equal(slab.values[1:, 0], flat.values)
    assert not slab.values[0].any()


def test_anisotropic_voxels_are_displaced_in_physical_units():
    pair = xdreg.datasets.phantom_pair((64, 72, 80), amplitude=1.5)
    fixed, moving = (v.compute().values for v in (pair.fixed, pair.moving))
    spacing = (3.0, 1.0, 1.0)
    grid = unit_grid(fixed.shape, spacing)
    field = displacement(image(fixed, grid), image(moving, grid)).values
    truth = pair.displacement.values * np.reshape(spacing, (3, 1, 1, 1))
    inside = pair.foreground.values
    error = np.linalg.norm(field - truth, axis=0)[inside]
    assert np.median(error) < 0.5 * np.linalg.norm(truth, axis=0)[inside].mean()


def test_time_limit():
    values = texture((24, 24, 24))
    with pytest.raises(xdreg.MethodTimeout, match="more time"):
        displacement(image(values), image(texture((24, 24, 24), seed=4)), timeout=1e-6)


def test_two_grids_are_refused():
    with pytest.raises(xdreg.InputError, match="one grid"):
        displacement(image(texture((20, 20))), image(texture((20, 21))))


@pytest.mark.parametrize("metric", ["lncc", "mind"])
@pytest.mark.parametrize("shape", [(32, 36, 40), (80, 90)])
@pytest.mark.parametrize("sigma", [1.0, 3.0])
def test_nothing_folds_even_where_images_have_nothing_in_common(metric, shape, sigma):
    images = [image(texture(shape, sigma, seed)) for seed in (1, 2)]
    # Smoothed less than by default, that there be something to fold.
    field = displacement(*images, metric=metric, update_sigma=2.0)
    dataset = field.to_dataset(name="displacement")
    assert np.abs(field.values).max() > 2
    assert float(xdreg.jacobian_determinant(dataset).min()) > 0


def test_descriptors_find_a_shift_across_contrasts():
    values = texture((40, 44, 48), 2.0)
    moved = scipy.ndimage.shift(values, (1.5, -2.0, 1.0), order=3, mode="nearest")
    # No function of one intensity: the contrast turns over along an axis.
    turning = np.cos(np.linspace(0, np.pi, 48), dtype=np.float32)
    field = displacement(image(values), image(np.exp(moved) * turning), metric="mind")
    inner = field.values[:, 8:-8, 8:-8, 8:-8]
    error = np.linalg.norm(inner - np.reshape((1.5, -2.0, 1.0), (3, 1, 1, 1)), axis=0)
    # Where the contrast turns over there is none; of 2.7 voxels 0.4 are left.
    assert np.median(error) < 0.5


@pytest.mark.parametrize("threads", THREADS[1:])
def test_descriptors_give_the_same_bits_in_any_number_of_threads(threads):
    images = [image(texture((29, 34, 38), 2.0, seed)) for seed in (1, 2)]
    expected = displacement(*images, iterations=8, metric="mind")
    found = displacement(*images, iterations=8, metric="mind", threads=threads)
    np.testing.assert_array_equal(found.values, expected.values)


@pytest.mark.parametrize("metric", ["lncc", "mind"])
@pytest.mark.parametrize("shape", [(48, 52, 56), (120, 131)])
def test_a_stride_of_two_finds_the_same_motion(metric, shape):
    pair = xdreg.datasets.phantom_pair(shape, amplitude=2.0)
    images = pair.fixed.compute(), pair.moving.compute()
    inside = pair.foreground.values
    errors = []
    for stride in (1, 2):
        options = {"metric": metric, "stride": stride, "update_sigma": 2.0}
        found = local_correlation(*images, **options).displacement.values
        gap = found - pair.displacement.values
        errors.append(np.sqrt((gap**2).sum(axis=0))[inside].mean())
    assert errors[1] < 1.1 * errors[0] + 0.01
