"""elastix's transform parameter files, ``TransformParameters.0.txt``.

They map fixed points to moving ones, ``x, y, z``, by convention in millimetres; the
fixed grid stands in them as ``Size``, ``Spacing``, ``Origin`` and ``Direction``, the
origin a voxel centre. An initial transform is applied first.

A field is written as a ``DeformationFieldTransform``, which transformix applies, with
the vectors beside it as MetaImage. What is read becomes ITK transforms, sampled where
they are needed.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from xdreg.bridges import vector_images as itk_images
from xdreg.bridges.prepare import MILLIMETRES, for_tool
from xdreg.errors import InputError, StoreError
from xdreg.fields.composition import as_one_field
from xdreg.fields.field import field_grid
from xdreg.grid import SPATIAL_DIMS, Grid
from xdreg.numerics.itk_transforms import itk_parameters
from xdreg.stores.outputs import check_file, new_file

if TYPE_CHECKING:
    import xarray as xr
    from numpy.typing import NDArray

    Parameters = dict[str, list[str]]

_ENTRY = re.compile(r"^\s*\((\w+)\s*(.*?)\)\s*(?://.*)?$")
_VALUE = re.compile(r'"([^"]*)"|(\S+)')
_INITIAL = ("InitialTransformParameterFileName", "InitialTransformParametersFileName")

#: A chain of initial transforms that is longer refers to itself.
_MOST_FILES = 64


def write(
    field: xr.Dataset,
    path: Path,
    *,
    step: int = 1,
    units: str | None = None,
    overwrite: bool = False,
) -> None:
    """Write a field for transformix; see `xdreg.bridges.write_transform`.

    The vectors go to ``path`` with the suffix ``.mha``, whose absolute path stands in
    the parameter file.
    """
    vectors = path.with_suffix(".mha")
    check_file(vectors, overwrite=overwrite)
    prepared = for_tool(field, units, MILLIMETRES, step)
    grid = field_grid(prepared)
    itk_images.write(
        prepared, vectors, units=grid.units if units else None, overwrite=overwrite
    )
    with new_file(path, overwrite=overwrite) as partial:
        partial.write_text(_parameters(grid, vectors), encoding="utf-8")


def _parameters(grid: Grid, vectors: Path) -> str:
    """Return the text that transformix reads."""
    ndim = grid.ndim

    def numbers(values: Any) -> str:
        return " ".join(repr(v) for v in list(values)[::-1])

    direction = " ".join(str(int(v)) for v in np.eye(ndim).ravel())
    return f"""\
(Transform "DeformationFieldTransform")
(NumberOfParameters 0)
(InitialTransformParameterFileName "NoInitialTransform")
(HowToCombineTransforms "Compose")
(DeformationFieldFileName "{vectors}")
(DeformationFieldInterpolationOrder 1)
(FixedImageDimension {ndim})
(MovingImageDimension {ndim})
(FixedInternalImagePixelType "float")
(MovingInternalImagePixelType "float")
(Size {numbers(grid.shape)})
(Index {" ".join("0" * ndim)})
(Spacing {numbers(grid.spacing)})
(Origin {numbers(grid.origin)})
(Direction {direction})
(UseDirectionCosines "true")
(ResampleInterpolator "FinalBSplineInterpolator")
(FinalBSplineInterpolationOrder 1)
(Resampler "DefaultResampler")
(DefaultPixelValue 0)
(ResultImageFormat "mha")
(ResultImagePixelType "float")
(CompressResultImage "false")
"""


def is_elastix(path: Path) -> bool:
    """Tell elastix's parameter files from other text, such as ITK's transform files."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return "(Transform " in file.read(2**16)
    except OSError as error:
        msg = f"{path} cannot be read: {error}"
        raise StoreError(msg) from error


def read(path: Path, *, like: Any = None, units: str | None = None) -> xr.Dataset:
    """Read a parameter file and its initial ones; see `xdreg.bridges.open_transform`.

    Kinds: translation, Euler, similarity, affine, B-spline and deformation field.
    """
    units = units or MILLIMETRES
    files = _chain(path)
    transforms = [_transform(file, values, units) for file, values in files]
    grid = None if like is not None else _fixed_grid(*files[-1], units)
    return as_one_field(transforms, like, units, str(path), grid)


def _chain(path: Path) -> list[tuple[Path, Parameters]]:
    """Return the files that belong together, the first to be applied first."""
    files: list[tuple[Path, Parameters]] = []
    while len(files) < _MOST_FILES:
        values = _parsed(path)
        files.append((path, values))
        name = next((_word(values, key) for key in _INITIAL if key in values), "")
        if name in ("", "NoInitialTransform"):
            return files[::-1]
        if _word(values, "HowToCombineTransforms", "Compose") != "Compose":
            msg = (
                f"{path} adds its initial transform instead of composing with it; "
                "sample it with transformix -def all, and open that image"
            )
            raise InputError(msg)
        path = _beside(path, name)
    msg = f"{path} is one of over {_MOST_FILES} initial transforms in a chain"
    raise StoreError(msg)


def _beside(path: Path, name: str) -> Path:
    """Return a file that another one names; by its name alone if both were moved."""
    for candidate in (Path(name), path.parent / name, path.parent / Path(name).name):
        if candidate.is_file():
            return candidate
    msg = f"{path} names {name!r}, which is not there; put it beside that file"
    raise StoreError(msg)


def _parsed(path: Path) -> Parameters:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        msg = f"{path} cannot be read as text: {error}"
        raise StoreError(msg) from error
    entries = (_ENTRY.match(line) for line in text.splitlines())
    return {
        entry[1]: [quoted or bare for quoted, bare in _VALUE.findall(entry[2])]
        for entry in entries
        if entry
    }


def _word(values: Parameters, key: str, default: str = "") -> str:
    """Return the first value of an entry, if there is any."""
    return next(iter(values.get(key, ())), default)


def _numbers(
    path: Path, values: Parameters, key: str, count: int | None = None
) -> list[float]:
    """Return the numbers of an entry, or say that they are not what they should be."""
    try:
        numbers = [float(value) for value in values[key]]
        right = (count is None or len(numbers) == count) and np.isfinite(numbers).all()
    except (KeyError, ValueError):
        right = False
    if not right:
        expected = "finite numbers" if count is None else f"{count} finite numbers"
        found = " ".join(values.get(key, ["nothing"]))[:80]
        msg = f"{path}: {key} is {found}; expected {expected}"
        raise StoreError(msg)
    return numbers


def _dimension(path: Path, values: Parameters) -> int:
    (ndim,) = _numbers(path, values, "FixedImageDimension", 1)
    if ndim not in (2, 3):
        msg = f"{path} is for images of {ndim:g} dimensions; expected 2 or 3"
        raise InputError(msg)
    return int(ndim)


def _transform(path: Path, values: Parameters, units: str | None) -> Any:
    """Return one file's transform: of ITK, or a field."""
    import itk

    ndim = _dimension(path, values)
    kind = _word(values, "Transform")
    if kind in ("DeformationFieldTransform", "DisplacementFieldTransform"):
        name = _word(values, "DeformationFieldFileName")
        return itk_images.read(_beside(path, name), units=units)
    if kind in ("BSplineTransform", "RecursiveBSplineTransform"):
        return _bspline(path, values, ndim)
    classes = {
        "TranslationTransform": itk.TranslationTransform,
        "EulerTransform": itk.Euler3DTransform if ndim == 3 else itk.Euler2DTransform,
        "SimilarityTransform": itk.Similarity3DTransform
        if ndim == 3
        else itk.Similarity2DTransform,
        "AffineTransform": itk.AffineTransform,
    }
    if kind not in classes:
        msg = (
            f"{path} holds a {kind or 'transform without a name'}; expected one of "
            f"{[*classes, 'BSplineTransform', 'DeformationFieldTransform']}. Sample it "
            "with transformix -def all, and open that image"
        )
        raise InputError(msg)
    general = kind in ("TranslationTransform", "AffineTransform")
    template = classes[kind][(itk.D, ndim) if general else itk.D]
    transform = template.New()
    if kind != "TranslationTransform":
        transform.SetCenter(_numbers(path, values, "CenterOfRotationPoint", ndim))
    if kind == "EulerTransform" and ndim == 3:
        transform.SetComputeZYX(_word(values, "ComputeZYX").lower() == "true")
    count = int(transform.GetNumberOfParameters())
    numbers = _numbers(path, values, "TransformParameters", count)
    transform.SetParameters(itk_parameters(numbers))
    return transform


def _bspline(path: Path, values: Parameters, ndim: int) -> Any:
    import itk

    # Older versions know cubic ones only, and do not name the order.
    order = 3
    if "BSplineTransformSplineOrder" in values:
        order = int(_numbers(path, values, "BSplineTransformSplineOrder", 1)[0])
    if order != 3:
        msg = (
            f"{path} holds a B-spline of order {order}; expected 3. Sample it with "
            "transformix -def all, and open that image"
        )
        raise InputError(msg)
    if _word(values, "UseCyclicTransform").lower() == "true":
        msg = f"{path} holds a cyclic B-spline, which no other tool knows"
        raise InputError(msg)
    transform = itk.BSplineTransform[itk.D, ndim, 3].New()
    fixed: list[float] = []
    for key in ("GridSize", "GridOrigin", "GridSpacing"):
        fixed += _numbers(path, values, key, ndim)
    fixed += _direction(path, values, "GridDirection", ndim).ravel().tolist()
    transform.SetFixedParameters(itk_parameters(fixed))
    count = int(transform.GetNumberOfParameters())
    numbers = _numbers(path, values, "TransformParameters", count)
    transform.SetParameters(itk_parameters(numbers))
    return transform


def _direction(
    path: Path, values: Parameters, key: str, ndim: int
) -> NDArray[np.float64]:
    """Return a direction matrix, which elastix writes column by column."""
    if key not in values:
        return np.eye(ndim)
    cosines = _numbers(path, values, key, ndim * ndim)
    return np.array(cosines).reshape(ndim, ndim).T


def _fixed_grid(path: Path, values: Parameters, units: str | None) -> Grid:
    """Return the grid of the fixed image, flips and permutations undone."""
    ndim = _dimension(path, values)
    size, spacing, origin = (
        np.array(_numbers(path, values, key, ndim))
        for key in ("Size", "Spacing", "Origin")
    )
    index = np.zeros(ndim)
    if "Index" in values:
        index = np.array(_numbers(path, values, "Index", ndim))
    direction = _direction(path, values, "Direction", ndim)
    axes = np.abs(direction).argmax(axis=0)
    straight = np.isclose(np.abs(direction[axes, range(ndim)]), 1, atol=1e-6).all()
    if not straight or len(set(axes.tolist())) < ndim:
        msg = (
            f"{path} is for an oblique fixed image; name an image or a field on whose "
            "grid to sample the transform"
        )
        raise InputError(msg, like=...)
    ends = [origin + direction @ (spacing * (index + e)) for e in (0 * size, size - 1)]
    order = np.argsort(axes)[::-1]
    return Grid(
        SPATIAL_DIMS[-ndim:],
        tuple(int(n) for n in size[order]),
        tuple(float(s) for s in spacing[order]),
        tuple(float(o) for o in np.minimum(*ends)[::-1]),
        units,
    )
