"""The command ``regions``: volumes of the regions of a label image, in both images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from xdreg.cli.common import (
    AsJson,
    FieldPath,
    Overwrite,
    answer,
    given_path,
    open_path,
    show,
)
from xdreg.cli.speaking import Quiet, ShowProgress, Verbose


def regions(
    field: FieldPath,
    labels: Annotated[
        str,
        typer.Argument(
            metavar="LABELS", help="Label image, such as an atlas's annotation."
        ),
    ],
    names: Annotated[
        Path | None,
        typer.Option(
            help="CSV or JSON of the regions with a column id, such as BrainGlobe's "
            "structures.csv.",
            parser=given_path,
        ),
    ] = None,
    image: Annotated[
        Literal["moving", "fixed"],
        typer.Option(metavar="IMAGE", help="The image of LABELS: moving, or fixed."),
    ] = "moving",
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="FILE",
            help="CSV to write; by default the table is printed.",
            parser=given_path,
        ),
    ] = None,
    as_json: AsJson = False,
    progress: ShowProgress = True,
    verbose: Verbose = False,
    quiet: Quiet = False,
    overwrite: Overwrite = False,
) -> None:
    """Print the volume of each region of LABELS in both images of FIELD.

    Example: xdreg regions field.ome.zarr annotation.ome.zarr --names structures.csv
    """
    from xdreg.fields.regions import region_volumes
    from xdreg.fields.store import open_field
    from xdreg.stores.apart import check_apart
    from xdreg.stores.outputs import check_file, new_file
    from xdreg.stores.progress import working

    if output is not None:
        check_apart(output, field, labels, names)
        check_file(output, overwrite=overwrite)
    with working("counting", enabled=progress):
        table = region_volumes(open_field(field), open_path(labels), names, image=image)
    units = table.attrs["units"]
    if output is not None:
        with new_file(output, overwrite=overwrite) as partial:
            table.to_csv(partial, encoding="utf-8")
    elif not as_json:
        show(f"{table.to_string()}\nvolumes in {units}")
    lines = {} if output is None else {"wrote": f"{len(table)} regions to {output}"}
    rows = table.reset_index().to_dict("records")
    answer({"regions": rows, "units": units, "output": output}, lines, as_json=as_json)
