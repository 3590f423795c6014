"""The command convert: fields from and to the files of other tools."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from xdreg.cli.common import Overwrite, open_path, show


def convert(
    source: Annotated[
        str, typer.Argument(metavar="FIELD", help="Transform file, or field.ome.zarr.")
    ],
    output: Annotated[
        Path, typer.Argument(metavar="OUT", help="File to write; its suffix counts.")
    ],
    like: Annotated[
        str | None,
        typer.Option(
            help="Fixed image, or field.ome.zarr: where a transform without a grid is "
            "sampled."
        ),
    ] = None,
    inverse: Annotated[
        str | None,
        typer.Option(help="Field moving → fixed to write too, in .ome.zarr and .n5."),
    ] = None,
    backwards: Annotated[
        bool, typer.Option("--backwards", help="Take the inverse that FIELD holds.")
    ] = False,
    affine: Annotated[
        bool, typer.Option("--affine", help="Write the affine part apart.")
    ] = False,
    step: Annotated[int, typer.Option(help="Take every so many points.")] = 1,
    units: Annotated[
        str | None, typer.Option(help="Unit of the numbers in FIELD, if it has none.")
    ] = None,
    output_units: Annotated[
        str | None, typer.Option(help="Unit to write; by default that of the tool.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Convert FIELD to the format that the suffix of OUT names, from and to any.

    .ome.zarr; .n5 (BigWarp); .h5 and .tfm (ITK, 3D Slicer, SimpleITK, ANTs); .nii.gz
    (ANTs); .nrrd and .mha (displacement images); .txt (elastix).

    Example: xdreg convert out/field.ome.zarr warp.nii.gz
    """
    from xdreg.bridges import open_transform, write_transform

    field = open_transform(source, like=_like(like), units=units, inverse=backwards)
    write_transform(
        field,
        output,
        inverse=None if inverse is None else open_transform(inverse, units=units),
        affine=affine,
        step=step,
        units=output_units,
        overwrite=overwrite,
    )
    show(f"wrote {output}")


def _like(path: str | None) -> object:
    """Open an image, or a field, by what lies at a path."""
    from xdreg.errors import StoreError
    from xdreg.fields.store import open_field

    if path is None:
        return None
    try:
        return open_path(path)
    except StoreError as error:
        try:
            return open_field(path)
        except StoreError:
            raise error from None
