"""The command ``convert``: fields from and to the file formats of other tools."""

from __future__ import annotations

from typing import Annotated

import typer

from xdreg.cli.common import Overwrite, open_path_or_field, show


def convert(
    source: Annotated[
        str, typer.Argument(metavar="FIELD", help="Transform file, or field.ome.zarr.")
    ],
    output: Annotated[
        str,
        typer.Argument(
            metavar="OUT", help="File to write; its suffix names the format."
        ),
    ],
    like: Annotated[
        str | None,
        typer.Option(
            help="Fixed image or field.ome.zarr with the grid on which to sample FIELD."
        ),
    ] = None,
    inverse: Annotated[
        str | None,
        typer.Option(help="Inverse field to write too, in .ome.zarr and .n5."),
    ] = None,
    backwards: Annotated[
        bool, typer.Option("--backwards", help="Convert the inverse that FIELD holds.")
    ] = False,
    affine: Annotated[
        bool, typer.Option("--affine", help="Write the affine part separately.")
    ] = False,
    step: Annotated[int, typer.Option(help="Write every n-th point of each axis.")] = 1,
    dense: Annotated[
        bool, typer.Option("--dense", help="Write every voxel of the fixed image.")
    ] = False,
    units: Annotated[
        str | None, typer.Option(help="Unit of lengths in FIELD if it states none.")
    ] = None,
    output_units: Annotated[
        str | None, typer.Option(help="Unit to write; by default that of the format.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Convert FIELD between formats, which the suffixes of FIELD and OUT name.

    .ome.zarr; .n5 (BigWarp); .h5 and .tfm (ITK, 3D Slicer, SimpleITK, ANTs); .nii.gz
    (ANTs); .nrrd and .mha (displacement images); .txt (elastix).

    Example: xdreg convert out/field.ome.zarr warp.nii.gz
    """
    from xdreg.bridges import open_transform, write_transform
    from xdreg.stores.apart import check_apart

    check_apart(output, source, like, inverse)
    field = open_transform(
        source,
        like=None if like is None else open_path_or_field(like),
        units=units,
        inverse=backwards,
    )
    write_transform(
        field,
        output,
        inverse=None if inverse is None else open_transform(inverse, units=units),
        affine=affine,
        step=step,
        dense=dense,
        units=output_units,
        overwrite=overwrite,
    )
    show(f"wrote {output}")
