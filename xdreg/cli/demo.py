"""The command ``demo``: registration of a synthetic pair with a known field."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from xdreg.cli.common import (
    AsJson,
    Overwrite,
    answer,
    given_path,
    output_folder,
)
from xdreg.cli.speaking import Quiet, ShowProgress, Verbose
from xdreg.cli.summary import agreement, outcome

if TYPE_CHECKING:
    import xarray as xr

    from xdreg.datasets import Phantom

#: Voxels of the foreground, about, at which the error is measured.
POINTS = 20_000


def demo(
    output: Annotated[
        Path,
        typer.Option(
            "-o",
            "--output",
            metavar="FOLDER",
            help="Folder to write to.",
            parser=given_path,
        ),
    ] = Path("xdreg-demo"),
    as_json: AsJson = False,
    progress: ShowProgress = True,
    verbose: Verbose = False,
    quiet: Quiet = False,
    overwrite: Overwrite = False,
) -> None:
    """Make a pair with a known deformation, register it in blocks, print the error.

    Example: xdreg demo -o demo
    """
    began = time.perf_counter()
    with output_folder(output):
        values, lines = _run(output, began, progress=progress, overwrite=overwrite)
    answer(values, lines, as_json=as_json)


def _run(
    output: Path, began: float, *, progress: bool, overwrite: bool
) -> tuple[dict[str, Any], dict[str, str]]:
    """Make, register and compare the pair; return values for JSON and lines of text."""
    from xdreg.datasets import phantom_pair
    from xdreg.fields.store import save_field
    from xdreg.fields.warp_to import warp_to
    from xdreg.registration.register import register
    from xdreg.stores.ome_writer import write_ome_zarr
    from xdreg.stores.ome_zarr import open_ome_zarr
    from xdreg.stores.outputs import check_file, check_target
    from xdreg.stores.progress import working
    from xdreg.stores.pyramid import image_levels

    names = "fixed", "moving", "field", "moved"
    paths = [output / f"{name}.ome.zarr" for name in names]
    picture = output / "before_after.png"
    for path in paths:
        check_target(path, overwrite=overwrite)
    check_file(picture, overwrite=overwrite)
    pair = phantom_pair((72, 88, 104), amplitude=5.0)
    for image, path in zip((pair.fixed, pair.moving), paths, strict=False):
        write_ome_zarr(image, path, overwrite=overwrite, progress=progress)
    fixed, moving = open_ome_zarr(paths[0]), open_ome_zarr(paths[1])
    field = register(fixed, moving, block_shape=56, progress=progress)
    save_field(field, paths[2], overwrite=overwrite, progress=progress)
    warp_to(field, moving, paths[3], overwrite=overwrite, progress=progress)
    with working("comparing", enabled=progress):
        before, after = _errors(field, pair)
        found = agreement(field, *(image_levels(v, "image") for v in (fixed, moving)))
        drawn = _draw(field, fixed, moving, picture, overwrite=overwrite)
    values, lines = outcome(field, found, began)
    written = {
        "folder": output,
        "picture": picture if drawn else None,
        "error_voxels": {"before": before, "after": after},
    }
    lines["error"] = (
        f"mean error against the truth: {after:.3f} voxels, from {before:.3f} before "
        "registration"
    )
    missing = "none: matplotlib is missing; pip install 'xdreg[plot]'"
    lines["picture"] = str(picture) if drawn else missing
    return written | values, lines


def _errors(field: xr.Dataset, pair: Phantom) -> tuple[float, float]:
    """Return the mean error before and after, in voxels, which have size one."""
    from xdreg.fields.points import transform_points

    points = pair.foreground.values.nonzero()
    some = np.stack(points, axis=1)[:: max(len(points[0]) // POINTS, 1)]
    truth = pair.displacement.values[(slice(None), *some.T)].T
    found = transform_points(field, some.astype(float)) - some
    before, after = (
        float(np.linalg.norm(v, axis=1).mean()) for v in (truth, found - truth)
    )
    return before, after


def _draw(
    field: xr.Dataset, fixed: Any, moving: Any, picture: Path, *, overwrite: bool
) -> bool:
    """Draw the pair before and after; return False without matplotlib."""
    from xdreg.stores.outputs import new_file

    try:
        from xdreg.views.plot import before_after

        figure = before_after(field, fixed, moving)
    except ImportError:
        return False
    with new_file(picture, overwrite=overwrite) as file:
        figure.savefig(file, dpi=110)
    return True
