"""The force of descriptors."""

import numpy as np
import pytest

from tests.helpers.images import texture
from xdreg.engines.correlation import correlation_force
from xdreg.engines.mind import descriptor_force
from xdreg.numerics import descriptors
from xdreg.numerics.descriptors import descriptor

ONE = np.ones(3, np.float32)


def test_descriptor_force_is_the_slope_of_the_energy():
    """Against differences of the energy over whole voxels, without interpolation."""
    fixed, moving = texture((12, 14, 16), 2.0), texture((12, 14, 16), 2.0, seed=5)
    (kernel,) = descriptor_force(fixed, moving, (1, 1, 1), ONE)
    f, m = (
        descriptor(v, (1, 1, 1))[..., : descriptors.IN_SPACE] / descriptors.SCALE
        for v in (fixed, moving)
    )

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


@pytest.mark.parametrize("metric", ["lncc", "mind"])
def test_a_mask_is_no_narrower_after_a_part_of_a_voxel(metric):
    """Interpolation between a voxel that counts and one that does not keeps it."""
    images = texture((12, 14, 16), seed=1), texture((12, 14, 16), seed=2)
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
