"""The engine: gradient, kernels, recovery of known fields, masks, threads."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage
import xarray as xr

import xdreg
from xdreg.coordinates import coordinates
from xdreg.engines.correlation import (
    GAIN,
    correlation_force,
    image_stiffness,
    mean_correlation,
)
from xdreg.engines.local_correlation import local_correlation
from xdreg.engines.mind import descriptor_force
from xdreg.engines.voxel_units import VoxelUnits
from xdreg.grid import Grid
from xdreg.numerics import correlation_kernels, descriptors
from xdreg.numerics.descriptors import descriptor
from xdreg.numerics.filters import (
    close_plane,
    gaussian_taps,
    place_in,
    ring_of,
    smooth_across,
    smooth_planes,
    sum_boxes,
    sum_ring,
)

ONE = np.ones(3, np.float32)
THREADS = (1, 2, 3)


def noise(shape, sigma=1.5, seed=0):
    white = np.random.default_rng(seed).standard_normal(shape)
    smooth = scipy.ndimage.gaussian_filter(white, sigma)
    return (smooth / smooth.std()).astype(np.float32)


def image(values, spacing=None, mask=None):
    dims = ("z", "y", "x")[-values.ndim :]
    spacing = spacing or (1.0,) * values.ndim
    grid = Grid(dims, values.shape, tuple(spacing), (0.0,) * values.ndim)
    array = xr.DataArray(values, dims=dims, coords=coordinates(grid))
    return array if mask is None else array.assign_coords(mask=(dims, mask))


def displacement(fixed, moving, **options):
    """Return the displacement that the engine finds."""
    return local_correlation(fixed, moving, **options).displacement


def update_of(fixed, moving, radius):
    """Return the update and totals where nothing is displaced."""
    update = np.zeros((*fixed.shape, 3), np.float32)
    energy = np.zeros((fixed.shape[0], 2))
    still = np.zeros_like(update)
    for kernel in correlation_force(fixed, moving, radius, ONE, (1.0, 1.0)):
        kernel(0, fixed.shape[0], still, update, energy)
    return update, energy


def by_value(images, which, place, radius):
    """Return the energy's derivative by one voxel's value, by finite differences."""
    mean = np.float32(np.nanmean(images[which]))
    sums = []
    for change in (0.02, -0.02):
        changed = [v.copy() for v in images]
        changed[which][place] += np.float32(change)
        # Keep the mean that is taken off, so that one voxel alone changes.
        changed[which] -= np.float32(np.nanmean(changed[which])) - mean
        sums.append(update_of(*changed, radius)[1][:, 0].sum())
    return (sums[0] - sums[1]) / 0.04


@pytest.mark.parametrize("radius", [(2, 2, 2), (0, 3, 2), (1, 2, 3)])
def test_gradient_is_that_of_the_energy(radius):
    """Half by moving the moving image, half by moving the fixed one the other way."""
    shape = (1 if radius[0] == 0 else 9, 11, 12)
    fixed = noise(shape, 1.0 if shape[0] > 1 else (0, 1, 1))
    moving = np.float32(0.5) * fixed + noise(shape, 1.0, seed=1)
    # The middle is far from it, for slopes beside a hole have one side only.
    fixed[0, 0, 0] = np.nan
    update, _ = update_of(fixed, moving, radius)
    rng = np.random.default_rng(2)
    for _ in range(12):
        place = tuple(
            int(rng.integers(0 if n == 1 else 2, max(1, n - 1))) for n in shape
        )
        expected = np.zeros(3)
        for which, sign in ((1, 0.5), (0, -0.5)):
            values = (fixed, moving)[which]
            slopes = [
                0.0 if n == 1 else float(np.gradient(values, axis=axis)[place])
                for axis, n in enumerate(shape)
            ]
            derivative = by_value((fixed, moving), which, place, radius)
            expected += sign * derivative * np.array(slopes)
        assert update[place] == pytest.approx(expected, rel=0.03, abs=2e-3)


def test_energy_against_scipy():
    fixed, moving = noise((10, 12, 14)), noise((10, 12, 14), seed=3)
    moving += fixed

    def box(values):
        return scipy.ndimage.uniform_filter(values, 5, mode="constant") * 125

    f, m = (v.astype(float) - v.mean() for v in (fixed, moving))
    n = box(np.ones_like(f))
    cross = box(f * m) - box(f) * box(m) / n
    floor = correlation_kernels.NOISE**2 * n
    var_f = box(f * f) - box(f) ** 2 / n + floor
    var_m = box(m * m) - box(m) ** 2 / n + floor
    expected = (cross**2 / (var_f * var_m)).mean()
    assert mean_correlation(fixed, moving, (2, 2, 2), (1.0, 1.0)) == pytest.approx(
        expected, rel=1e-4
    )


@pytest.mark.parametrize("sigma", [(2.0, 2.0, 2.0), (0.0, 1.5, 3.0), (1.0, 0.0, 0.5)])
def test_smoothing_against_scipy(sigma):
    field = np.stack([noise((11, 13, 12), 0.5, seed=s) for s in range(3)], axis=-1)
    taps = [gaussian_taps(s) for s in sigma]
    resistance = 1 + noise((11, 13, 12), 0.5, seed=3) ** 2
    out = field.copy()
    smooth_planes(0, 11, out, taps[1], taps[2])
    longest = smooth_across(0, 13, out, taps[0], resistance)
    expected, weight = field.astype(float), np.ones(field.shape[:3])
    for axis, t in enumerate(taps):
        t = t.astype(float)
        expected = scipy.ndimage.correlate1d(expected, t, axis, mode="constant")
        weight = scipy.ndimage.correlate1d(weight, t, axis, mode="constant")
    expected /= (weight * resistance)[..., None]
    np.testing.assert_allclose(out, expected, atol=2e-6)
    assert longest == pytest.approx((expected**2).sum(axis=-1).max(), rel=1e-4)


@pytest.mark.parametrize(
    "radius",
    [
        (0, 5, 4),
        (1, 0, 1),
        (1, 2, 3),
        (2, 1, 2),
        (2, 5, 1),
        (4, 1, 6),
        (4, 6, 5),
        (6, 6, 6),
    ],
)
def test_box_sums_are_sums(radius):
    """From any plane on, with nothing beyond the image."""
    values = noise((17, 15, 19))
    expected = values.astype(float)
    for axis, r in enumerate(radius):
        ones = np.ones(2 * r + 1)
        expected = scipy.ndimage.correlate1d(expected, ones, axis, mode="constant")
    rz, ry, rx = radius
    depth, (nz, ny, nx) = 2 * rz + 1, values.shape
    padded = np.pad(values, ((0, 0), (ry, ry), (rx, rx)))
    for start in (0, 6):
        ring = ring_of(depth, 1, ny, nx + 2 * rx)
        scratch = np.zeros((3, *padded.shape[1:]), np.float32)
        out = np.zeros(ring.shape[1:], np.float32)
        for plane in range(max(0, start - rz), nz + rz):
            here = ring[place_in(ring, plane)]
            if plane < nz:
                sum_boxes(padded[plane], ry, rx, scratch, here[0])
            else:
                here[:] = 0
            close_plane(ring, plane)
            if plane >= start + rz:
                sum_ring(ring, plane, out)
                found, sums = out[0, :, :nx], expected[plane - rz]
                np.testing.assert_allclose(found, sums, rtol=1e-5, atol=1e-4)


def test_known_translation_is_found():
    values = noise((40, 44, 48), 2.0)
    shift = (1.5, -2.0, 1.0)
    moved = scipy.ndimage.shift(values, shift, order=3, mode="nearest")
    field = displacement(image(values), image(moved))
    inner = field.values[:, 8:-8, 8:-8, 8:-8]
    assert np.abs(inner - np.reshape(shift, (3, 1, 1, 1))).mean() < 0.05


@pytest.mark.parametrize("planes", [2, 3, 5])
def test_a_thin_stack_has_boxes_as_deep_as_it_is(planes):
    values = noise((planes, 60, 64), 2.0)
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
    values = noise((32, 36, 40), 2.0)
    moved = scipy.ndimage.shift(values, (1, 0, 0), order=3, mode="nearest")
    mask = np.zeros(values.shape, bool)
    mask[:, :, :28] = True
    fields = []
    for junk in (0.0, 1e4):
        spoilt = np.where(mask, values, np.float32(junk) * noise(values.shape, seed=9))
        fields.append(displacement(image(spoilt, mask=mask), image(moved, mask=mask)))
    np.testing.assert_array_equal(fields[0].values, fields[1].values)
    assert fields[0].values[0, 8:-8, 8:-8, 6:20].mean() == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("metric", ["lncc", "mind"])
def test_a_mask_is_no_narrower_after_a_part_of_a_voxel(metric):
    """Interpolation between a voxel that counts and one that does not keeps it."""
    images = noise((12, 14, 16), seed=1), noise((12, 14, 16), seed=2)
    images[1][:, 4:6, 5] = np.nan
    images[1][:, :, 11:] = np.nan
    force = {
        "lncc": lambda: correlation_force(*images, (1, 1, 1), ONE, (1.0, 1.0)),
        "mind": lambda: descriptor_force(*images, (1, 1, 1), ONE),
    }[metric]()
    energies = []
    for shift in (0.0, 0.4, -0.4):
        displacement = np.zeros((*images[0].shape, 3), np.float32)
        displacement[..., 2] = shift
        energies.append(np.zeros((len(displacement), 2)))
        for kernel in force:
            kernel(0, 12, displacement, np.zeros_like(displacement), energies[-1])
    counted = [energy[:, 1].tolist() for energy in energies]
    assert 0 < sum(counted[0]) < images[0].size
    assert counted[1] == counted[2] == counted[0]
    assert all(np.isfinite(energy).all() for energy in energies)


def test_nothing_moves_where_nothing_counts():
    values = noise((24, 24, 24))
    mask = np.zeros(values.shape, bool)
    field = displacement(image(values, mask=mask), image(values + 1, mask=mask))
    assert not field.values.any()


def test_edges_make_no_force():
    """An image against itself rests, at its edges too."""
    values = noise((20, 22, 24))
    update, energy = update_of(values, values.copy(), (2, 2, 2))
    assert energy[:, 0].sum() / energy[:, 1].sum() > 0.97
    field = displacement(image(values), image(values.copy()))
    assert not field.values.any()
    assert np.isfinite(update).all()


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
    lifted = [image(v.values[None], (7.0, 1.0, 1.0)) for v in (fixed, moving)]
    slab = displacement(*lifted)
    np.testing.assert_array_equal(slab.values[1:, 0], flat.values)
    assert not slab.values[0].any()


def test_lengths_are_physical():
    grid = Grid(("z", "y", "x"), (8, 9, 10), (4.0, 1.0, 1.0), (0.0,) * 3)
    units = VoxelUnits(grid)
    assert units.voxels(2.0, {3: 1.0}) == (0.5, 2.0, 2.0)
    assert units.radius([4.0, 3.0, 0.4], {3: 1.0}) == (1, 3, 1)
    np.testing.assert_allclose(
        units.squared_steps * 16, units.squared_steps[::-1] * [1, 16, 256]
    )


def test_anisotropic_voxels_are_displaced_in_physical_units():
    pair = xdreg.datasets.phantom_pair((64, 72, 80), amplitude=1.5)
    fixed, moving = (v.compute().values for v in (pair.fixed, pair.moving))
    spacing = (3.0, 1.0, 1.0)
    field = displacement(image(fixed, spacing), image(moving, spacing)).values
    truth = pair.displacement.values * np.reshape(spacing, (3, 1, 1, 1))
    inside = pair.foreground.values
    error = np.linalg.norm(field - truth, axis=0)[inside]
    assert np.median(error) < 0.5 * np.linalg.norm(truth, axis=0)[inside].mean()


def test_time_limit():
    values = noise((24, 24, 24))
    with pytest.raises(xdreg.MethodTimeout, match="more time"):
        displacement(image(values), image(noise((24, 24, 24), seed=4)), timeout=1e-6)


def test_the_stiffness_is_that_of_the_whole_image():
    """It falls with smoothness, shortens updates, and is measured where not given."""
    grid = Grid(("z", "y", "x"), (32, 36, 40), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    stiffness = [image_stiffness(noise(grid.shape, s), grid) for s in (1.0, 2.0, 4.0)]
    assert stiffness == sorted(stiffness, reverse=True)
    images = [image(noise(grid.shape, 2.0, seed)) for seed in (1, 2)]
    options = {"iterations": 1, "field_sigma": 0.0}
    plain = displacement(*images, **options).values
    measured = [image_stiffness(images[0].values, grid)]
    same = displacement(*images, **options, stiffness=measured).values
    np.testing.assert_array_equal(same, plain)
    stiffer = displacement(*images, **options, stiffness=[80 * measured[0]])
    assert 0 < np.abs(stiffer).max() < 0.2 * np.abs(plain).max()


def test_an_update_goes_as_far_where_contrast_is_low_or_shapes_are_smooth():
    """By the motion, that is: a least-squares step is as long, whatever the slopes.

    The slopes along all three axes resist, one of which moved: a third of the gain.
    """
    shape = (32, 36, 64)
    left, right = noise(shape, 1.5, seed=1), noise(shape, 3.0, seed=2)
    values = np.concatenate([left / left.std(), 0.5 * right / right.std()], axis=2)
    moved = scipy.ndimage.shift(values, (0.3, 0, 0), order=3, mode="nearest")
    options = {"iterations": 1, "field_sigma": 0.0}
    field = displacement(image(values), image(moved), **options).values[0]
    along = [np.median(part[8:-8, 8:-8, 8:-8]) for part in np.split(field, 2, axis=2)]
    np.testing.assert_allclose(along, 0.3 * GAIN[3] / 3, rtol=0.4)


def test_two_grids_are_refused():
    with pytest.raises(xdreg.InputError, match="one grid"):
        displacement(image(noise((20, 20))), image(noise((20, 21))))


@pytest.mark.parametrize("metric", ["lncc", "mind"])
@pytest.mark.parametrize("shape", [(32, 36, 40), (80, 90)])
@pytest.mark.parametrize("sigma", [1.0, 3.0])
def test_nothing_folds_even_where_images_have_nothing_in_common(metric, shape, sigma):
    images = [image(noise(shape, sigma, seed)) for seed in (1, 2)]
    # Smoothed less than by default, that there be something to fold.
    field = displacement(*images, metric=metric, update_sigma=2.0)
    dataset = field.to_dataset(name="displacement")
    assert np.abs(field.values).max() > 2
    assert float(xdreg.jacobian_determinant(dataset).min()) > 0


def test_descriptors_find_a_shift_across_contrasts():
    values = noise((40, 44, 48), 2.0)
    moved = scipy.ndimage.shift(values, (1.5, -2.0, 1.0), order=3, mode="nearest")
    # No function of one intensity: the contrast turns over along an axis.
    turning = np.cos(np.linspace(0, np.pi, 48), dtype=np.float32)
    field = displacement(image(values), image(np.exp(moved) * turning), metric="mind")
    inner = field.values[:, 8:-8, 8:-8, 8:-8]
    error = np.linalg.norm(inner - np.reshape((1.5, -2.0, 1.0), (3, 1, 1, 1)), axis=0)
    # Where the contrast turns over there is none; of 2.7 voxels 0.4 are left.
    assert np.median(error) < 0.5


@pytest.mark.parametrize(("shape", "channels"), [((9, 10, 11), 12), ((1, 20, 22), 4)])
def test_descriptor_of_the_paper(shape, channels):
    """Against the definition, pair by pair, in plain numpy."""
    values = noise(shape, 1.0 if shape[0] > 1 else (0, 1, 1))
    radius = (1 if shape[0] > 1 else 0, 1, 1)
    size = [2 * r + 1 for r in radius]
    found = descriptor(values, radius)
    assert found.shape == (*shape, channels)
    distances = []
    for pair in descriptors._pairs(shape):
        shifted = []
        for side in pair:
            places = [
                np.clip(np.arange(n) + step, 0, n - 1)
                for n, step in zip(shape, side, strict=True)
            ]
            shifted.append(values[np.ix_(*places)])
        difference = (shifted[0] - shifted[1]).astype(float) ** 2
        box = scipy.ndimage.uniform_filter(difference, size, mode="constant")
        distances.append(box * np.prod(size))
    distances = np.stack(distances, axis=-1)
    mean = distances.mean(axis=-1, keepdims=True)
    variance = np.maximum(mean, descriptors.LEAST_VARIANCE * mean.mean())
    expected = np.exp((distances.min(axis=-1, keepdims=True) - distances) / variance)
    np.testing.assert_allclose(
        found / descriptors.SCALE, expected, atol=0.5 / descriptors.SCALE + 1e-5
    )


def test_descriptor_force_is_the_slope_of_the_energy():
    """Against differences of the energy over whole voxels, without interpolation."""
    fixed, moving = noise((12, 14, 16), 2.0), noise((12, 14, 16), 2.0, seed=5)
    (kernel,) = descriptor_force(fixed, moving, (1, 1, 1), ONE)
    f, m = (descriptor(v, (1, 1, 1)) / descriptors.SCALE for v in (fixed, moving))

    def run(displacement):
        update, totals = np.zeros((*fixed.shape, 3), np.float32), np.zeros((12, 2))
        kernel(0, 12, displacement, update, totals)
        return update, totals[:, 0].sum()

    still = np.zeros((*fixed.shape, 3), np.float32)
    update, _ = run(still)
    rng = np.random.default_rng(0)
    for _ in range(10):
        place = tuple(int(rng.integers(2, n - 2)) for n in fixed.shape)
        for axis in range(3):
            energies, neighbours = [], []
            for change in (1, -1):
                moved = still.copy()
                moved[(*place, axis)] = change
                energies.append(run(moved)[1])
                beside = list(place)
                beside[axis] += change
                neighbours.append(m[tuple(beside)])
            high, low = neighbours
            slope = ((f[place] - m[place]) * (high - low) / 2).sum()
            assert update[(*place, axis)] == pytest.approx(slope, abs=1e-4)
            gain = ((f[place] - low) ** 2 - (f[place] - high) ** 2).mean()
            assert energies[0] - energies[1] == pytest.approx(gain, abs=1e-4)


@pytest.mark.parametrize("threads", THREADS[1:])
def test_descriptors_give_the_same_bits_in_any_number_of_threads(threads):
    images = [image(noise((29, 34, 38), 2.0, seed)) for seed in (1, 2)]
    expected = displacement(*images, iterations=8, metric="mind")
    found = displacement(*images, iterations=8, metric="mind", threads=threads)
    np.testing.assert_array_equal(found.values, expected.values)


def test_kernels_compile_where_the_package_cannot_be_written(tmp_path):
    """From a copy of the package that nobody may write to, with a home of its own."""
    package = tmp_path / "site" / "xdreg"
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(xdreg.__file__).parent, package, ignore=ignore)
    for path in (package, *package.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    # The superuser may write anywhere; a file where the cache would be stops it too.
    if os.geteuid() == 0:
        folder = package / "numerics"
        folder.chmod(0o755)
        (folder / "__pycache__").write_text("")
        folder.chmod(0o555)
    code = (
        "import numpy as np; from xdreg.numerics import filters; "
        "print(filters.__file__); "
        "filters.smooth_planes(0, 4, np.ones((4, 5, 6, 3), np.float32), "
        "filters.gaussian_taps(1.0), filters.gaussian_taps(1.0))"
    )
    home = tmp_path / "home"
    home.mkdir()
    environment = {
        **os.environ,
        "HOME": str(home),
        "XDG_CACHE_HOME": str(home),
        "PYTHONPATH": str(package.parent),
    }
    environment.pop("NUMBA_CACHE_DIR", None)
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert str(package) in done.stdout
    assert list(home.rglob("*.nbi"))


def test_stage_registers_in_blocks_like_whole():
    pair = xdreg.datasets.phantom_pair((96, 104, 64), amplitude=2.0)
    fields = [
        pair.fixed.dreg.register(
            pair.moving,
            initial=np.eye(4),
            stages=[
                xdreg.LocalCorrelation(level=1, block_shape=1024),
                xdreg.LocalCorrelation(level=0, block_shape=block),
            ],
            progress=False,
        )
        for block in (48, 1024)
    ]
    assert fields[0].block_status.size == 12
    inside = pair.foreground.values[::2, ::2, ::2]
    difference = (fields[0].displacement - fields[1].displacement).values
    length = np.linalg.norm(difference, axis=0)[
        tuple(slice(0, n) for n in inside.shape)
    ]
    assert np.median(length[inside]) < 0.05


def test_what_a_mask_leaves_out_sets_no_scale():
    """Neither noise nor stiffness is measured against it."""
    pair = xdreg.datasets.phantom_pair((64, 72), amplitude=2.0)
    fixed, moving = pair.fixed.compute(), pair.moving.compute()
    mask = pair.foreground
    mask[:8], mask[-8:] = False, False
    fields = []
    for junk in (0.0, 1e5):
        spoilt = fixed.where(mask, np.float32(junk) * noise(fixed.shape, seed=9))
        fields.append(
            spoilt.dreg.register(
                moving,
                fixed_mask=mask,
                initial=np.eye(3),
                stages=[xdreg.LocalCorrelation(level=0)],
                progress=False,
            )
        )
    clean, spoilt = (field.displacement.values for field in fields)
    assert np.abs(clean).max() > 1
    np.testing.assert_allclose(spoilt, clean, atol=1e-3)


def test_metrics_that_a_stage_lacks():
    with pytest.raises(xdreg.InputError, match="nearest is 'lncc'"):
        xdreg.LocalCorrelation(metric="ncc")
    with pytest.raises(xdreg.InputError, match="nearest is 'ncc'"):
        xdreg.BSpline(metric="lncc")
    pair = xdreg.datasets.phantom_pair((48, 56))
    plans = {
        m: pair.fixed.dreg.plan(pair.moving, metric=m) for m in ("lncc", "mi", "msd")
    }
    used = {m: [s.metric for s in plan.stages] for m, plan in plans.items()}
    assert used["lncc"] == ["lncc", "lncc"]
    assert used["mi"] == ["mi", "mi", "mind"]
    assert used["msd"] == ["msd"] * 3


@pytest.mark.parametrize("option", ["radius", "update_sigma", "field_sigma", "step"])
def test_options_are_checked_and_reach_the_engine(option):
    with pytest.raises(xdreg.InputError, match=option):
        xdreg.LocalCorrelation(**{option: -1.0})
    pair = xdreg.datasets.phantom_pair((48, 56))
    plain, changed = (
        pair.fixed.dreg.register(
            pair.moving, stages=[xdreg.LocalCorrelation(**options)], progress=False
        )
        for options in ({}, {option: 0.4})
    )
    assert not plain.displacement.equals(changed.displacement)
