"""elastix's transform parameter files, ``TransformParameters.0.txt``.

They map fixed points to moving ones, components ``x, y, z``, by convention in
millimetres. The fixed grid is given by ``Size``, ``Spacing``, ``Origin`` (a voxel
centre) and ``Direction``. An initial transform is applied first.

A field is written as a ``DeformationFieldTransform`` for transformix, with its vectors
next to it as MetaImage. Files are read as ITK transforms, which are sampled lazily.
elastix's own ``ParameterObject`` is not used: its import takes several times as long,
and transformix would sample the whole field at once.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from xdreg.bridges import vector_images
from xdreg.bridges.prepare import MILLIMETRES, for_tool
from xdreg.errors import InputError, StoreError
from xdreg.fields.composition import as_one_field
from xdreg.fields.field import field_grid, fixed_grid
from xdreg.grid import SPATIAL_DIMS, Grid
from xdreg.numerics.itk_transforms import geometry, itk_parameters
from xdreg.stores.named_files import companion
from xdreg.stores.outputs import check_file, new_file

if TYPE_CHECKING:
    from numpy.typing import NDArray

_ENTRY = re.compile(r"^\s*\((\w+)\s*(.*?)\)\s*(?://.*)?$")
_VALUE = re.compile(r'"([^"]*)"|(\S+)')
_INITIAL = ("InitialTransformParameterFileName", "InitialTransformParametersFileName")

_INSTEAD = "sample it with transformix -def all, and open that image"

#: Most initial transforms in a chain.
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

    The vectors are written to ``path`` with the suffix ``.mha``, and the parameter file
    holds their absolute path.
    """
    vectors = path.with_suffix(".mha")
    # Nobody has asked to overwrite vectors that are not those of the file.
    own = path.exists() and f'"{vectors}"' in path.read_text("utf-8", "replace")
    check_file(vectors, overwrite=overwrite and own)
    prepared = for_tool(field, units, MILLIMETRES, step)
    grid = field_grid(prepared)
    vector_images.write(
        prepared, vectors, units=grid.units if units else None, overwrite=overwrite
    )
    with new_file(path, overwrite=overwrite) as partial:
        # The bytes of a path that is not UTF-8, which transformix opens.
        partial.write_text(
            _parameters(fixed_grid(prepared), vectors),
            encoding="utf-8",
            errors="surrogateescape",
        )


def _parameters(grid: Grid, vectors: Path) -> str:
    ndim = grid.ndim

    def numbers(values: Any) -> str:
        return " ".join(map(repr, values))

    spacing, origin, cosines = geometry(grid)
    direction = " ".join(f"{v:.17g}" for v in cosines.T.ravel())
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
(Size {numbers(grid.shape[::-1])})
(Index {" ".join("0" * ndim)})
(Spacing {numbers(spacing)})
(Origin {numbers(origin)})
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
    """Return whether a text file is a parameter file of elastix."""
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
    transforms = [_transform(file, units) for file in files]
    # A field alone keeps its own grid, which is coarser than the fixed image's.
    alone = len(transforms) == 1 and isinstance(transforms[0], xr.Dataset)
    grid = None if alone or like is not None else _fixed_grid(files[-1], units)
    return as_one_field(transforms, like, units, str(path), grid)


class _File:
    """Entries of a parameter file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            msg = f"{path} cannot be read as text: {error}"
            raise StoreError(msg) from error
        entries = (_ENTRY.match(line) for line in text.splitlines())
        self.entries = {
            entry[1]: [quoted or bare for quoted, bare in _VALUE.findall(entry[2])]
            for entry in entries
            if entry
        }

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        (ndim,) = self.numbers("FixedImageDimension", 1)
        if ndim not in (2, 3):
            msg = f"{self.path} is for images of {ndim:g} dimensions; expected 2 or 3"
            raise InputError(msg)
        return int(ndim)

    def word(self, key: str, default: str = "") -> str:
        """Return the first value of an entry."""
        return next(iter(self.entries.get(key, ())), default)

    def numbers(self, key: str, count: int) -> list[float]:
        """Return the numbers of an entry, or raise if they are not as expected."""
        try:
            numbers = [float(value) for value in self.entries[key]]
            right = len(numbers) == count and np.isfinite(numbers).all()
        except (KeyError, ValueError):
            right = False
        if not right:
            found = " ".join(self.entries.get(key, ["nothing"]))[:80]
            msg = f"{self.path}: {key} is {found}; expected {count} finite numbers"
            raise StoreError(msg)
        return numbers

    def direction(self, key: str) -> NDArray[np.float64]:
        """Return a direction matrix, which elastix writes column by column."""
        if key not in self.entries:
            return np.eye(self.ndim)
        cosines = self.numbers(key, self.ndim**2)
        return np.array(cosines).reshape(self.ndim, self.ndim).T


def _chain(path: Path) -> list[_File]:
    """Return a parameter file and its initial ones in order of application."""
    files: list[_File] = []
    while len(files) < _MOST_FILES:
        if any(path.samefile(file.path) for file in files):
            msg = f"{path} is an initial transform of itself; correct the chain"
            raise StoreError(msg)
        file = _File(path)
        files.append(file)
        name = next((file.word(key) for key in _INITIAL if key in file.entries), "")
        if name in ("", "NoInitialTransform"):
            return files[::-1]
        if file.word("HowToCombineTransforms", "Compose") != "Compose":
            msg = (
                f"{path} adds its initial transform instead of composing with it; "
                f"{_INSTEAD}"
            )
            raise InputError(msg)
        path = companion(name, path)
        if not is_elastix(path):
            msg = f"{file.path} names {path}, which is no parameter file of elastix"
            raise StoreError(msg)
    msg = f"{path} is one of over {_MOST_FILES} initial transforms in a chain"
    raise StoreError(msg)


def _transform(file: _File, units: str | None) -> Any:
    """Return the transform of one file, as an ITK transform or a field."""
    import itk

    kind, ndim = file.word("Transform"), file.ndim
    if kind in ("DeformationFieldTransform", "DisplacementFieldTransform"):
        vectors = companion(file.word("DeformationFieldFileName"), file.path)
        return vector_images.read(vectors, units=units)
    if kind in ("BSplineTransform", "RecursiveBSplineTransform"):
        return _bspline(file)
    euler = itk.Euler2DTransform, itk.Euler3DTransform
    similarity = itk.Similarity2DTransform, itk.Similarity3DTransform
    classes = {
        "TranslationTransform": itk.TranslationTransform[itk.D, ndim],
        "EulerTransform": euler[ndim - 2][itk.D],
        "SimilarityTransform": similarity[ndim - 2][itk.D],
        "AffineTransform": itk.AffineTransform[itk.D, ndim],
    }
    if kind not in classes:
        msg = (
            f"{file.path} holds a {kind or 'transform without a name'}; expected one "
            f"of {[*classes, 'BSplineTransform', 'DeformationFieldTransform']}. "
            f"{_INSTEAD.capitalize()}"
        )
        raise InputError(msg)
    transform = classes[kind].New()
    if kind != "TranslationTransform":
        transform.SetCenter(file.numbers("CenterOfRotationPoint", ndim))
    if kind == "EulerTransform" and ndim == 3:
        transform.SetComputeZYX(file.word("ComputeZYX").lower() == "true")
    return _with_parameters(transform, file)


def _bspline(file: _File) -> Any:
    import itk

    # Older versions write cubic splines only, without an order.
    order = 3
    if "BSplineTransformSplineOrder" in file.entries:
        order = int(file.numbers("BSplineTransformSplineOrder", 1)[0])
    if order != 3:
        msg = f"{file.path} holds a B-spline of order {order}; expected 3. "
        raise InputError(msg + _INSTEAD.capitalize())
    if file.word("UseCyclicTransform").lower() == "true":
        msg = f"{file.path} holds a cyclic B-spline; expected one that is not cyclic"
        raise InputError(msg)
    transform = itk.BSplineTransform[itk.D, file.ndim, 3].New()
    keys = ("GridSize", "GridOrigin", "GridSpacing")
    fixed = [number for key in keys for number in file.numbers(key, file.ndim)]
    direction = file.direction("GridDirection").ravel()
    transform.SetFixedParameters(itk_parameters([*fixed, *direction]))
    return _with_parameters(transform, file)


def _with_parameters(transform: Any, file: _File) -> Any:
    count = int(transform.GetNumberOfParameters())
    numbers = file.numbers("TransformParameters", count)
    transform.SetParameters(itk_parameters(numbers))
    return transform


def _fixed_grid(file: _File, units: str | None) -> Grid:
    """Return the grid of the fixed image, with flips and permutations undone."""
    ndim = file.ndim
    size, spacing, origin = (
        np.array(file.numbers(key, ndim)) for key in ("Size", "Spacing", "Origin")
    )
    index = np.zeros(ndim)
    if "Index" in file.entries:
        index = np.array(file.numbers("Index", ndim))
    direction = file.direction("Direction")
    axes = np.abs(direction).argmax(axis=0)
    straight = np.isclose(np.abs(direction[axes, range(ndim)]), 1, atol=1e-6).all()
    if not straight or len(set(axes.tolist())) < ndim:
        msg = (
            f"{file.path} is for an oblique fixed image; name an image or a field on "
            "whose grid to sample the transform"
        )
        raise InputError(msg, like=...)
    ends = [origin + direction @ (spacing * (index + e)) for e in (0 * size, size - 1)]
    order = np.argsort(axes)[::-1]
    return Grid(
        SPATIAL_DIMS[-ndim:],
        tuple(size[order].astype(int).tolist()),
        tuple(spacing[order].tolist()),
        tuple(np.minimum(*ends)[::-1].tolist()),
        units,
    )
