"""What the commands share: arguments, and opening what lies at a path."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

FixedPath = Annotated[
    str, typer.Argument(help="Fixed image: OME-Zarr, or a file of ITK.")
]
MovingPath = Annotated[str, typer.Argument(help="Moving image.")]
FieldPath = Annotated[str, typer.Argument(help="A field.ome.zarr.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]


def open_path(path: str) -> Any:
    """Open an image of any kind, by what lies at the path."""
    from xdreg.itk_bridge import open_image
    from xdreg.ome_zarr import open_ome_zarr

    if "://" in path or Path(path).is_dir() or path.rstrip("/").endswith(".zarr"):
        return open_ome_zarr(path)
    return open_image(path)
