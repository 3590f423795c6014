"""The command ``landmarks``: a transform from corresponding points, without images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import typer

from xdreg.cli.common import (
    AsJson,
    Overwrite,
    answer,
    given_path,
    open_path_or_field,
    show,
)
from xdreg.errors import InputError

if TYPE_CHECKING:
    from xdreg.fields.landmarks import LandmarkTransform

#: Suffixes of files that hold the transform itself; others hold a field.
_MATRIX, _ITK = ".csv", (".tfm", ".h5", ".hdf5")


def landmarks(
    fixed_points: Annotated[
        Path,
        typer.Argument(
            metavar="FIXED_POINTS",
            help="CSV with columns z, y and x; 3D Slicer's .fcsv or .mrk.json; or "
            "BigWarp's CSV, which holds both.",
            parser=given_path,
        ),
    ],
    moving_points: Annotated[
        Path | None,
        typer.Argument(
            metavar="MOVING_POINTS",
            help="Their counterparts, row by row.",
            parser=given_path,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="OUT",
            help="A linear transform as .csv (matrix), .tfm or .h5 (ITK); or with "
            "--like a field in any format that convert writes. Without it, only the "
            "residuals are printed.",
            parser=given_path,
        ),
    ] = None,
    kind: Annotated[
        Literal["translation", "rigid", "similarity", "affine", "thin-plate"],
        typer.Option(metavar="KIND", help="rigid, affine, thin-plate, …"),
    ] = "affine",
    like: Annotated[
        str | None, typer.Option(help="Fixed image, on whose grid a field is written.")
    ] = None,
    step: Annotated[int, typer.Option(help="Voxels between points of a field.")] = 1,
    all_pairs: Annotated[
        bool, typer.Option("--all", help="Use pairs that do not fit the others, too.")
    ] = False,
    units: Annotated[
        str | None, typer.Option(help="Unit of points that state none.")
    ] = None,
    as_json: AsJson = False,
    overwrite: Overwrite = False,
) -> None:
    """Fit a transform to landmarks, fixed → moving; print residuals and outliers.

    OUT serves as --initial of register, or as the registration.

    Example: xdreg landmarks fixed.fcsv moving.fcsv -o start.tfm --kind rigid
    """
    from xdreg.fields.landmarks import landmarks as fit
    from xdreg.stores.apart import check_apart

    if output is not None:
        check_apart(output, fixed_points, moving_points, like)
    found = fit(
        fixed_points, moving_points, kind=kind, robust=not all_pairs, units=units
    )
    if output is not None:
        _write(found, output, like, step, overwrite=overwrite)
    if not as_json:
        show(str(found))
    lines = {} if output is None else {"wrote": str(output)}
    pairs = found.table.to_dict("records")
    answer({"kind": kind, "pairs": pairs, "output": output}, lines, as_json=as_json)


def _write(
    found: LandmarkTransform,
    output: Path,
    like: str | None,
    step: int,
    *,
    overwrite: bool,
) -> None:
    """Write a transform in the format that the suffix names."""
    from xdreg.bridges.files import write_transform
    from xdreg.stores.outputs import new_file

    suffix = output.suffix.lower()
    if like is not None and suffix != _MATRIX:
        field = found.to_field(open_path_or_field(like), step=step)
        write_transform(field, output, overwrite=overwrite)
    elif suffix == _MATRIX and found.matrix is not None:
        with new_file(output, overwrite=overwrite) as partial:
            np.savetxt(partial, found.matrix, delimiter=",", fmt="%.17g")
    elif suffix in _ITK and found.matrix is not None:
        _write_itk(found, output, overwrite=overwrite)
    elif suffix == _MATRIX:
        msg = f"a {found.kind} transform is no matrix; write a field, as .ome.zarr"
        raise InputError(msg, like=...)
    else:
        msg = f"{output} would hold a field, which needs a grid; name the fixed image"
        raise InputError(msg, like=...)


def _write_itk(found: LandmarkTransform, output: Path, *, overwrite: bool) -> None:
    import itk

    from xdreg.bridges.prepare import MILLIMETRES, itk_errors
    from xdreg.stores.outputs import new_file

    # The unit of such files, by convention.
    found = found.in_units(MILLIMETRES)
    with (
        new_file(output, overwrite=overwrite) as partial,
        itk_errors(f"write {output}"),
    ):
        itk.transformwrite([found.to_itk_transform()], str(partial))
