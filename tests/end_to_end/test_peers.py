"""ANTs and SimpleITK apply what is written, in an environment of their own.

``XDREG_PEERS`` names its Python.
"""

import os
import subprocess

import itk
import numpy as np
import pytest

import xdreg
from tests.helpers.fields import Known, moving_like
from xdreg.coordinates import grid_of

PYTHON = os.environ.get("XDREG_PEERS")
pytestmark = pytest.mark.skipif(PYTHON is None, reason="XDREG_PEERS is not set")


def in_peers(code, *arguments):
    """Run code there; skip where a package is missing."""
    done = subprocess.run(
        [PYTHON, "-c", code, *map(str, arguments)],
        capture_output=True,
        encoding="utf-8",
        timeout=120,
    )
    if "ModuleNotFoundError" in done.stderr:
        pytest.skip(done.stderr.strip().splitlines()[-1])
    assert done.returncode == 0, done.stderr


ANTS = """
import sys, ants, numpy as np
fixed, moving, out, *transforms = sys.argv[1:]
images = [ants.image_read(name) for name in (fixed, moving)]
for i, transform in enumerate(transforms):
    moved = ants.apply_transforms(*images, [transform], interpolator="linear")
    np.save(f"{out}/{i}.npy", moved.numpy().T)
"""


@pytest.mark.parametrize("ndim", [2, 3])
def test_ants_warps_by_what_is_written(tmp_path, ndim):
    known = Known(ndim, 6.0)
    target = moving_like(known)
    random = np.random.default_rng(0).random(target.shape).astype(np.float32)
    moving = target.copy(data=random)
    fixed = known.field.displacement[0].drop_vars("component")
    # Files in millimetres: what is a micrometre here is written as one thousandth.
    for name, image in (("fixed", fixed), ("moving", moving)):
        grid = grid_of(image).to_units("millimeter")
        as_itk = image.dreg.to_itk_image()
        as_itk.SetSpacing(grid.spacing[::-1])
        as_itk.SetOrigin(grid.origin[::-1])
        itk.imwrite(as_itk, str(tmp_path / f"{name}.nii"))
    names = ["warp.nii.gz", "field.h5", "composite.h5"]
    for name in names:
        known.field.dreg.to_file(tmp_path / name, affine=name.startswith("composite"))
    in_peers(
        ANTS, tmp_path / "fixed.nii", tmp_path / "moving.nii", tmp_path,
        *(tmp_path / name for name in names),
    )  # fmt: skip
    ours = known.field.dreg.warp(moving, like=fixed).values
    inside = (slice(2, -2),) * ndim
    for i, name in enumerate(names):
        theirs = np.load(tmp_path / f"{i}.npy")
        assert theirs.shape == ours.shape
        np.testing.assert_allclose(
            theirs[inside], ours[inside], atol=2e-3, err_msg=name
        )


SITK = """
import sys, SimpleITK as sitk, numpy as np
folder, *names = sys.argv[1:]
points = np.load(f"{folder}/points.npy")
for i, name in enumerate(names):
    if name.endswith((".nrrd", ".mha", ".nii.gz")):
        image = sitk.ReadImage(f"{folder}/{name}", sitk.sitkVectorFloat64)
        transform = sitk.DisplacementFieldTransform(image)
    else:
        transform = sitk.ReadTransform(f"{folder}/{name}")
    np.save(f"{folder}/{i}.npy", [transform.TransformPoint(p.tolist()) for p in points])
turn = sitk.Euler3DTransform((1.0, 2.0, 3.0), 0.1, 0.2, 0.3, (0.4, 0.5, 0.6))
bend = sitk.BSplineTransformInitializer(sitk.Image(40, 40, 40, sitk.sitkUInt8), [4] * 3)
rng = np.random.default_rng(0)
bend.SetParameters(rng.normal(size=len(bend.GetParameters())).tolist())
both = sitk.CompositeTransform([turn, bend])
for suffix in ("tfm", "h5"):
    sitk.WriteTransform(both, f"{folder}/theirs.{suffix}")
places = rng.uniform(5, 30, (20, 3))
np.savez(f"{folder}/theirs.npz", points=places,
         moved=[both.TransformPoint(p.tolist()) for p in places])
"""


def test_simpleitk_maps_points_alike_and_its_files_are_read(tmp_path):
    known = Known(3, 6.0)
    lower, upper = known.fixed.bounds
    share = np.random.default_rng(0).uniform(0.1, 0.9, (30, 3))
    points = lower + share * (upper - lower)
    np.save(tmp_path / "points.npy", points[:, ::-1] / 1e3)
    names = ["a.nrrd", "a.mha", "a.nii.gz", "a.h5", "a.tfm", "b.h5"]
    for name in names:
        known.field.dreg.to_file(tmp_path / name, affine=name == "b.h5")
    in_peers(SITK, tmp_path, *names)
    expected = known.field.dreg.transform_points(points)
    for i, name in enumerate(names):
        found = np.load(tmp_path / f"{i}.npy")[:, ::-1] * 1e3
        np.testing.assert_allclose(found, expected, atol=1e-2, err_msg=name)
    theirs = np.load(tmp_path / "theirs.npz")
    grid = xdreg.Grid(("z", "y", "x"), (36,) * 3, (1.0,) * 3, (0.0,) * 3, "millimeter")
    for suffix in ("tfm", "h5"):
        field = xdreg.open_transform(tmp_path / f"theirs.{suffix}", like=grid)
        moved = field.dreg.transform_points(theirs["points"][:, ::-1])
        np.testing.assert_allclose(moved, theirs["moved"][:, ::-1], atol=0.02)
