"""elastix's parameter files: transformix applies what is written, and what is read."""

import os
import re

import itk
import numpy as np
import pytest
import scipy.spatial

import xdreg
from tests.helpers.fields import Known, moving_like
from xdreg.coordinates import grid_of
from xdreg.fields.field import field_grid
from xdreg.grid import Grid

RNG = np.random.default_rng(3)


def parameters(kind, ndim, numbers, grid, direction=None, **more):
    """Return the text of a parameter file."""
    direction = np.eye(ndim) if direction is None else np.array(direction, float)
    entries = {
        "Transform": f'"{kind}"',
        "NumberOfParameters": len(numbers),
        "TransformParameters": " ".join(map(repr, map(float, numbers))),
        "InitialTransformParameterFileName": '"NoInitialTransform"',
        "HowToCombineTransforms": '"Compose"',
        "FixedImageDimension": ndim,
        "MovingImageDimension": ndim,
        "FixedInternalImagePixelType": '"float"',
        "MovingInternalImagePixelType": '"float"',
        "Size": " ".join(map(str, grid.shape[::-1])),
        "Index": " ".join("0" * ndim),
        "Spacing": " ".join(map(repr, grid.spacing[::-1])),
        "Origin": " ".join(map(repr, grid.origin[::-1])),
        "Direction": " ".join(map(str, direction.T.ravel())),
        "UseDirectionCosines": '"true"',
        "ResampleInterpolator": '"FinalBSplineInterpolator"',
        "FinalBSplineInterpolationOrder": 1,
        "Resampler": '"DefaultResampler"',
        "DefaultPixelValue": 0,
        "ResultImageFormat": '"mha"',
        "ResultImagePixelType": '"float"',
    }
    return "\n".join(f"({key} {value})" for key, value in (entries | more).items())


def centre(values):
    return {"CenterOfRotationPoint": " ".join(map(str, values))}


def spline(grid, control=6):
    """Return entries of a B-spline over a grid, and how many numbers it takes."""
    extent = np.multiply(grid.spacing, grid.shape)[::-1]
    spacing = extent / (control - 4)
    origin = np.array(grid.origin)[::-1] - 1.5 * spacing
    ndim = grid.ndim
    return control**ndim * ndim, {
        "GridSize": " ".join([str(control)] * ndim),
        "GridIndex": " ".join("0" * ndim),
        "GridSpacing": " ".join(map(repr, spacing.tolist())),
        "GridOrigin": " ".join(map(repr, origin.tolist())),
        "GridDirection": " ".join(map(str, np.eye(ndim).ravel())),
        "BSplineTransformSplineOrder": 3,
        "UseCyclicTransform": '"false"',
    }


def by_transformix(path, ndim):
    """Return the deformation that transformix makes of a file, (ndim, *shape)."""
    maps = itk.ParameterObject.New()
    maps.ReadParameterFile(str(path))
    image = itk.image_from_array(np.zeros((4,) * ndim, np.float32))
    image = itk.transformix_deformation_field(
        image, maps, output_directory=str(path.parent)
    )
    return image, np.moveaxis(np.array(itk.array_from_image(image)), -1, 0)[::-1]


CASES = {
    "translation": ("TranslationTransform", 2, [3.0, -2.0], {}),
    "euler 2-D": ("EulerTransform", 2, [0.2, 3.0, -2.0], centre([5.0, 6.0])),
    "euler": (
        "EulerTransform", 3, [0.1, -0.2, 0.3, 4.0, 5.0, 6.0],
        centre([1.0, 2.0, 3.0]) | {"ComputeZYX": '"false"'},
    ),
    "euler zyx": (
        "EulerTransform", 3, [0.1, -0.2, 0.3, 4.0, 5.0, 6.0],
        centre([1.0, 2.0, 3.0]) | {"ComputeZYX": '"true"'},
    ),
    "similarity 2-D": ("SimilarityTransform", 2, [1.1, 0.2, 3.0, -2.0], centre([5, 6])),
    "similarity": (
        "SimilarityTransform", 3, [0.1, 0.05, -0.1, 4.0, 5.0, 6.0, 1.2],
        centre([1.0, 2.0, 3.0]),
    ),
    "affine": (
        "AffineTransform", 2, [1.1, 0.2, -0.1, 0.9, 3.0, 4.0], centre([7.0, 8.0])
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_linear_transforms_are_what_transformix_makes_of_them(tmp_path, case):
    kind, ndim, numbers, more = CASES[case]
    grid = Grid(
        ("z", "y", "x")[-ndim:], (3, 4, 5)[-ndim:], (2.0, 1.0, 0.5)[-ndim:],
        (1.0, 2.0, 3.0)[-ndim:], "millimeter",
    )  # fmt: skip
    path = tmp_path / "TransformParameters.0.txt"
    path.write_text(parameters(kind, ndim, numbers, grid, **more))
    field = xdreg.open_transform(path)
    assert field_grid(field) == grid
    _, expected = by_transformix(path, ndim)
    np.testing.assert_allclose(field.displacement, expected, atol=1e-4)


@pytest.mark.parametrize("direction", [[[1, 0], [0, 1]], [[0, -1], [1, 0]]])
def test_a_spline_after_an_affine_on_a_turned_grid(tmp_path, direction):
    grid = Grid(("y", "x"), (7, 9), (1.0, 0.5), (2.0, 3.0), "millimeter")
    first, second = tmp_path / "first.txt", tmp_path / "second.txt"
    numbers = [1.02, 0.05, -0.03, 0.98, 0.1, 0.2]
    first.write_text(
        parameters("AffineTransform", 2, numbers, grid, direction, **centre([4.0, 5.0]))
    )
    # Wide enough for a turned grid as well.
    wide = Grid(("y", "x"), (40, 40), (1.0, 1.0), (-15.0, -15.0))
    count, more = spline(wide, 12)
    chain = {"InitialTransformParameterFileName": f'"{first}"'}
    second.write_text(
        parameters(
            "BSplineTransform", 2, RNG.normal(size=count), grid, direction,
            **more, **chain,
        )
    )  # fmt: skip
    field = xdreg.open_transform(second)
    image, _ = by_transformix(second, 2)
    expected = xdreg.from_itk_image(image)
    assert grid_of(expected).shape == field_grid(field).shape
    np.testing.assert_allclose(
        grid_of(expected).origin, field_grid(field).origin, atol=1e-6
    )
    found = field.displacement.values
    np.testing.assert_allclose(found, expected.values[::-1], atol=1e-4)
    (tmp_path / "moved").mkdir()
    for path in (first, second):
        path.rename(tmp_path / "moved" / path.name)
    again = xdreg.open_transform(tmp_path / "moved" / "second.txt")
    np.testing.assert_array_equal(again.displacement, found)
    first = tmp_path / "moved" / "first.txt"
    first.unlink()
    with pytest.raises(xdreg.StoreError, match="put both in one folder"):
        xdreg.open_transform(tmp_path / "moved" / "second.txt")


@pytest.mark.parametrize("ndim", [2, 3])
def test_transformix_warps_by_what_is_written(tmp_path, ndim):
    known = Known(ndim, 5.0)
    target = moving_like(known)
    moving = target.copy(data=RNG.random(target.shape).astype(np.float32))
    path = tmp_path / "TransformParameters.0.txt"
    known.field.dreg.to_file(path, units="micrometer")
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "TransformParameters.0.mha",
        "TransformParameters.0.txt",
    ]
    maps = itk.ParameterObject.New()
    maps.ReadParameterFile(str(path))
    theirs = itk.transformix_filter(moving.dreg.to_itk_image(), maps)
    own = field_grid(known.field)
    ours = known.field.dreg.warp(moving)
    result, whole = grid_of(xdreg.from_itk_image(theirs)), grid_of(ours)
    assert result.shape == whole.shape
    np.testing.assert_allclose(result.spacing, whole.spacing, rtol=1e-7)
    np.testing.assert_allclose(result.origin, whole.origin, rtol=1e-7)
    inside = (slice(4, -4),) * ndim
    np.testing.assert_allclose(
        itk.array_from_image(theirs)[inside], ours.values[inside], atol=1e-3
    )
    again = xdreg.open_transform(path, units="micrometer")
    assert field_grid(again) == own
    np.testing.assert_array_equal(again.displacement, known.field.displacement)
    in_millimetres = tmp_path / "in_mm.txt"
    known.field.dreg.to_file(in_millimetres)
    scaled = xdreg.open_transform(in_millimetres, like=known.field)
    np.testing.assert_allclose(scaled.displacement, known.field.displacement, atol=1e-4)


def oblique(seed, shape=(18, 22, 26)):
    """Return a volume with a direction of its own, as a scanner writes it."""
    rng = np.random.default_rng(seed)
    turn = scipy.spatial.transform.Rotation.from_euler("xyz", rng.uniform(-0.3, 0.3, 3))
    image = itk.image_from_array(rng.random(shape).astype(np.float32))
    image.SetSpacing([0.9, 1.2, 2.0])
    image.SetOrigin([5.0, -20.0, 30.0])
    image.SetDirection(itk.matrix_from_array(turn.as_matrix()))
    return image


def test_transformix_warps_oblique_volumes_onto_oblique_ones(tmp_path):
    fixed, moving = oblique(1), oblique(2)
    grid, other = (grid_of(xdreg.from_itk_image(v)) for v in (fixed, moving))
    values = RNG.normal(0, 0.5, (3, *grid.shape)).astype(np.float32)
    field = xdreg.make_field(values, grid, moving=other)
    path = tmp_path / "TransformParameters.0.txt"
    field.dreg.to_file(path)
    maps = itk.ParameterObject.New()
    maps.ReadParameterFile(str(path))
    theirs = itk.transformix_filter(moving, maps)
    np.testing.assert_allclose(theirs.GetOrigin(), fixed.GetOrigin())
    np.testing.assert_allclose(
        itk.array_from_matrix(theirs.GetDirection()),
        itk.array_from_matrix(fixed.GetDirection()),
        atol=1e-12,
    )
    image = xdreg.from_itk_image(moving)
    ours = field.dreg.warp(image).values
    # At the outermost voxels, tools continue an image in different ways.
    core = image.isel(dict.fromkeys(image.dims, slice(1, -1)))
    inside = np.isfinite(field.dreg.warp(core, fill_value=np.nan).values)
    assert inside.mean() > 0.3
    np.testing.assert_allclose(
        itk.array_from_image(theirs)[inside], ours[inside], atol=1e-4
    )
    # In the world, points go where those of the file do.
    rows = np.array([[9, 11, 13], [8, 10, 12]]) @ np.diag(grid.spacing) + grid.origin
    points = rows @ grid.to_world[:3, :3].T + grid.to_world[:3, 3]
    listed = "\n".join(" ".join(map(repr, p[::-1].tolist())) for p in points)
    (tmp_path / "points.txt").write_text(f"point\n2\n{listed}\n", encoding="utf-8")
    itk.transformix_pointset(
        moving, maps, output_directory=str(tmp_path),
        fixed_point_set_file_name=str(tmp_path / "points.txt"),
    )  # fmt: skip
    text = (tmp_path / "outputpoints.txt").read_text(encoding="utf-8")
    found = [line.split() for line in re.findall(r"OutputPoint = \[([^]]*)\]", text)]
    expected = field.dreg.transform_points(points)[:, ::-1]
    np.testing.assert_allclose(np.array(found, float), expected, atol=1e-5)
    again = xdreg.open_transform(path)
    np.testing.assert_allclose(
        again.dreg.transform_points(points)[:, ::-1], expected, atol=1e-5
    )


def test_what_is_added_or_refers_to_itself_is_refused(tmp_path):
    grid = Grid(("y", "x"), (3, 4), (1.0, 1.0), (0.0, 0.0))
    path = tmp_path / "a.txt"
    loop = {"InitialTransformParameterFileName": '"a.txt"'}
    path.write_text(parameters("TranslationTransform", 2, [1.0, 2.0], grid, **loop))
    with pytest.raises(xdreg.StoreError, match="chain"):
        xdreg.open_transform(path)
    added = loop | {"HowToCombineTransforms": '"Add"'}
    path.write_text(parameters("TranslationTransform", 2, [1.0, 2.0], grid, **added))
    with pytest.raises(xdreg.InputError, match="transformix -def all"):
        xdreg.open_transform(path)
    short = parameters("TranslationTransform", 2, [1.0], grid)
    path.write_text(short)
    with pytest.raises(xdreg.StoreError, match="expected 2 finite numbers"):
        xdreg.open_transform(path)
    count, more = spline(grid)
    more["BSplineTransformSplineOrder"] = 2
    path.write_text(parameters("BSplineTransform", 2, [0.0] * count, grid, **more))
    with pytest.raises(xdreg.InputError, match="B-spline of order 2; expected 3"):
        xdreg.open_transform(path)


def test_what_a_file_names_is_a_parameter_file_on_this_machine(tmp_path):
    grid = Grid(("y", "x"), (3, 4), (1.0, 1.0), (0.0, 0.0))
    folder = tmp_path / "out"
    folder.mkdir()

    def write(path, name):
        initial = {"InitialTransformParameterFileName": f'"{name}"'}
        text = parameters("TranslationTransform", 2, [1.0, 2.0], grid, **initial)
        path.write_text(text)

    last = folder / "last.txt"
    os.mkfifo(folder / "pipe.txt")
    for name in ("/dev/zero", "pipe.txt", "//server/a.txt", "http://127.0.0.1:9/a.txt"):
        write(last, name)
        with pytest.raises(xdreg.StoreError, match="not opened"):
            xdreg.open_transform(last, units="micrometer")
    # A chain of two that lead to each other.
    write(last, "first.txt")
    write(folder / "first.txt", "last.txt")
    with pytest.raises(
        xdreg.StoreError, match="transform of itself; correct the chain"
    ):
        xdreg.open_transform(last)
    (folder / "first.txt").write_text("secret\n" * 100)
    with pytest.raises(xdreg.StoreError, match="no parameter file") as caught:
        xdreg.open_transform(last)
    assert "secret" not in str(caught.value)
    # Elsewhere on this machine is where elastix may have left it: read, and named.
    write(tmp_path / "far.txt", "NoInitialTransform")
    write(last, str(tmp_path / "far.txt"))
    with pytest.warns(UserWarning, match="far.txt, outside its folder"):
        found = xdreg.open_transform(last)
    assert float(found.displacement.max()) == 4.0
