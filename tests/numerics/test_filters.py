"""Smoothing and box sums against scipy, and compilation in odd places."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage

import xdreg
from tests.helpers.images import texture
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


@pytest.mark.parametrize("sigma", [(2.0, 2.0, 2.0), (0.0, 1.5, 3.0), (1.0, 0.0, 0.5)])
def test_smoothing_against_scipy(sigma):
    field = np.stack([texture((11, 13, 12), 0.5, seed=s) for s in range(3)], axis=-1)
    taps = [gaussian_taps(s) for s in sigma]
    resistance = 1 + texture((11, 13, 12), 0.5, seed=3) ** 2
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
    values = texture((17, 15, 19))
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
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    assert str(package) in done.stdout
    assert list(home.rglob("*.nbc"))
