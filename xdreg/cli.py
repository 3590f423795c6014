"""The command ``xdreg``: register, warp, invert, points, view, info, demo."""

from __future__ import annotations

import json
import re
import resource
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import typer
import xarray as xr
from rich.console import Console
from rich.table import Table

from xdreg.cli_common import FieldPath, FixedPath, MovingPath, Overwrite, open_path
from xdreg.cli_fields import invert, points
from xdreg.cli_view import view
from xdreg.errors import StoreError, XdregError

if TYPE_CHECKING:
    from xdreg.inputs import Channels

app = typer.Typer(
    help="Register images too large for memory, block by block.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.command()(invert)
app.command()(points)
app.command()(view)
# Names and units come from stores: no part of them is markup.
_out = Console(markup=False)

#: The agreement of two images is measured on a level of at most so many voxels.
AGREEMENT_VOXELS = 2**21


@app.command()
def register(
    fixed: FixedPath,
    moving: MovingPath,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder to write to.")],
    metric: Annotated[
        Literal["auto", "lncc", "mind", "ncc", "mi", "msd"],
        typer.Option(
            help="lncc, ncc: one modality; mind, mi: across; msd: equal intensities; "
            "auto: lncc or mind, by a look at the images."
        ),
    ] = "auto",
    block_shape: Annotated[
        int | None, typer.Option(help="Voxels of a block per axis.")
    ] = None,
    overlap: Annotated[
        int | None, typer.Option(help="Voxels of overlap per side.")
    ] = None,
    fixed_mask: Annotated[
        str | None, typer.Option(help="Mask of the fixed image, or auto.")
    ] = None,
    moving_mask: Annotated[
        str | None, typer.Option(help="Mask of the moving image, or auto.")
    ] = None,
    channel: Annotated[
        list[str] | None,
        typer.Option(
            help="Channel, by name or number; luminance, of RGB; or all. Again for "
            "more, to register them jointly."
        ),
    ] = None,
    moving_channel: Annotated[
        list[str] | None, typer.Option(help="That of MOVING, if another.")
    ] = None,
    workdir: Annotated[
        Path | None, typer.Option(help="Keep the run here, to resume.")
    ] = None,
    retry: Annotated[
        list[str] | None,
        typer.Option(
            help="Run blocks of this status again when the run is resumed: crashed, "
            "timeout. Again for more."
        ),
    ] = None,
    progress: Annotated[bool, typer.Option(help="Show progress.")] = True,
    overwrite: Overwrite = False,
) -> None:
    """Register MOVING to FIXED; write field.ome.zarr and moved.ome.zarr.

    Example: xdreg register fixed.ome.zarr moving.ome.zarr -o out
    """
    from xdreg.field import save_field
    from xdreg.multiscale import image_levels
    from xdreg.ome_zarr_writer import write_ome_zarr
    from xdreg.outputs import check_target
    from xdreg.registration import register as run
    from xdreg.resampling import warp

    began = time.perf_counter()
    targets = output / "field.ome.zarr", output / "moved.ome.zarr"
    images = open_path(fixed), open_path(moving)
    masks = [
        mask if mask in (None, "auto") else open_path(mask)
        for mask in (fixed_mask, moving_mask)
    ]
    _make_folder(output)
    for target in targets:
        check_target(target, overwrite=overwrite)
    levels = [
        image_levels(image, name)
        for image, name in zip(images, ("fixed", "moving"), strict=True)
    ]
    fixed_channel = _channels(levels[0][0], channel)
    source_channel = _channels(levels[1][0], moving_channel)
    if moving_channel is None and "c" in levels[1][0].dims:
        source_channel = _channels(levels[1][0], channel)
    field = run(
        *images,
        metric=metric,
        block_shape=block_shape,
        overlap=overlap,
        fixed_mask=masks[0],
        moving_mask=masks[1],
        channel=fixed_channel,
        moving_channel=source_channel,
        workdir=workdir,
        retry=retry or (),
        progress=progress,
    )
    save_field(field, targets[0], overwrite=overwrite)
    moved = warp(field, images[1], like=levels[0][0])
    write_ome_zarr(moved, targets[1], overwrite=overwrite)
    _agreement(
        field,
        _select(levels[0], fixed_channel, "fixed"),
        _select(levels[1], source_channel, "moving"),
        across=_last_metric(field) in ("mind", "mi"),
    )
    _summary(field, time.perf_counter() - began)
    _out.print(f"wrote {targets[0]} and {targets[1]}", highlight=False, soft_wrap=True)


@app.command("warp")
def warp_command(
    field: FieldPath,
    moving: MovingPath,
    output: Annotated[Path, typer.Option("-o", "--output", help="OME-Zarr to write.")],
    labels: Annotated[
        bool, typer.Option("--labels", help="Take the nearest voxel.")
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Resample MOVING through FIELD onto the fixed grid.

    Example: xdreg warp out/field.ome.zarr moving.ome.zarr -o moved.ome.zarr
    """
    from xdreg.field import open_field
    from xdreg.ome_zarr_writer import write_ome_zarr
    from xdreg.outputs import check_target
    from xdreg.resampling import warp

    check_target(output, overwrite=overwrite)
    moved = warp(open_field(field), open_path(moving), order=0 if labels else 1)
    write_ome_zarr(moved, output, labels=labels, overwrite=overwrite)
    _out.print(f"wrote {output}", highlight=False, soft_wrap=True)


@app.command()
def info(
    path: Annotated[str, typer.Argument(help="An image, or a field.ome.zarr.")],
) -> None:
    """Print what an image or a field holds.

    Example: xdreg info fixed.ome.zarr
    """
    from xdreg.coordinates import grid_of
    from xdreg.field import field_grid, open_field
    from xdreg.multiscale import image_levels

    try:
        image = open_path(path)
    except StoreError as error:
        if "scene" not in str(error):
            raise
        field = open_field(path)
        grid = field_grid(field)
        _out.print(f"displacement field on {grid}", highlight=False, soft_wrap=True)
        _summary(field)
        return
    table = Table(
        "level", "dims", "shape", "spacing", "origin", "units", "dtype", "chunks"
    )
    for number, array in enumerate(image_levels(image, "image")):
        grid = grid_of(array)
        chunks = tuple(sizes[0] for sizes in array.chunks) if array.chunks else "-"
        table.add_row(
            str(number),
            " ".join(map(str, array.dims)),
            *(" × ".join(f"{v:g}" for v in vs) for vs in (array.shape, grid.spacing)),
            ", ".join(f"{v:g}" for v in grid.origin),
            str(grid.units),
            str(array.dtype),
            str(chunks),
        )
    _out.print(table)


@app.command()
def demo(
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Folder to write to.")
    ] = Path("xdreg-demo"),
    overwrite: Overwrite = False,
) -> None:
    """Make a pair with a known deformation, register it in blocks, print the error.

    Example: xdreg demo -o demo
    """
    from xdreg.datasets import phantom_pair
    from xdreg.field import save_field
    from xdreg.multiscale import image_levels
    from xdreg.ome_zarr import open_ome_zarr
    from xdreg.ome_zarr_writer import write_ome_zarr
    from xdreg.outputs import check_file, check_target, new_file
    from xdreg.points import transform_points
    from xdreg.registration import register as run
    from xdreg.resampling import warp

    began = time.perf_counter()
    names = ("fixed.ome.zarr", "moving.ome.zarr", "field.ome.zarr", "moved.ome.zarr")
    _make_folder(output)
    paths = [output / name for name in names]
    picture = output / "before_after.png"
    for path in paths:
        check_target(path, overwrite=overwrite)
    check_file(picture, overwrite=overwrite)
    pair = phantom_pair((72, 88, 104), amplitude=5.0)
    for image, path in zip((pair.fixed, pair.moving), paths, strict=False):
        write_ome_zarr(image, path, overwrite=overwrite)
    fixed, moving = open_ome_zarr(paths[0]), open_ome_zarr(paths[1])
    field = run(fixed, moving, block_shape=56)
    save_field(field, paths[2], overwrite=overwrite)
    write_ome_zarr(warp(field, moving), paths[3], overwrite=overwrite)
    points = pair.foreground.values.nonzero()
    some = np.stack(points, axis=1)[:: max(len(points[0]) // 20_000, 1)]
    truth = pair.displacement.values[(slice(None), *some.T)].T
    found = transform_points(field, some.astype(float)) - some
    error = np.linalg.norm(found - truth, axis=1)
    before = np.linalg.norm(truth, axis=1)
    _agreement(field, *(image_levels(v, "image") for v in (fixed, moving)))
    _summary(field, time.perf_counter() - began)
    _out.print(
        f"mean error against the truth: {error.mean():.3f} voxels, "
        f"from {before.mean():.3f} before registration",
        highlight=False,
        soft_wrap=True,
    )
    try:
        from xdreg.plot import before_after

        figure = before_after(field, fixed, moving)
        with new_file(picture, overwrite=overwrite) as file:
            figure.savefig(file, dpi=110)
        _out.print(f"picture: {picture}", highlight=False, soft_wrap=True)
    except ImportError:
        _out.print("no picture: matplotlib is missing; pip install 'xdreg[plot]'")


def _make_folder(path: Path) -> None:
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(path)):
        msg = f"the output {path} must be a local folder; write to URLs with xdreg.save"
        raise StoreError(msg)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        msg = f"the folder {path} cannot be made: {error.strerror}; choose another"
        raise StoreError(msg) from error


def _channels(image: xr.DataArray, given: list[str] | None) -> Channels:
    """Return channels by their names, else their numbers; one alone as it is.

    The name comes first: channels are often called by a wavelength.
    """
    if not given:
        return None
    names = [str(v) for v in image["c"].values] if "c" in image.coords else []
    found = [int(v) if v.isdigit() and v not in names else v for v in given]
    return found[0] if len(found) == 1 else found


def _select(
    levels: list[xr.DataArray], channel: Channels, name: str
) -> list[xr.DataArray]:
    """Return an image's levels with the first channel chosen and time point."""
    from xdreg.inputs import selections
    from xdreg.multiscale import build_pyramid

    chosen = selections(build_pyramid(levels, name), channel, name)[0].get("c")
    if chosen is not None:
        if isinstance(chosen, tuple):
            weights = xr.DataArray(np.asarray(chosen, np.float32), dims="c")
            # Arithmetic drops the coordinates' attributes, and with them the unit.
            levels = [
                (level.drop_vars("c", errors="ignore") * weights)
                .sum("c")
                .assign_coords({d: level[d] for d in level.dims if d != "c"})
                for level in levels
            ]
        else:
            levels = [level.isel(c=chosen, drop=True) for level in levels]
    others = [dim for dim in ("t", "c") if dim in levels[0].dims]
    return [level.isel(dict.fromkeys(others, 0), drop=True) for level in levels]


def _last_metric(field: xr.Dataset) -> str:
    """Return the metric of the last stage that a field was made by."""
    return str(json.loads(field.attrs["xdreg"])["stages"][-1]["metric"])


def _agreement(
    field: xr.Dataset,
    fixed: list[xr.DataArray],
    moving: list[xr.DataArray],
    *,
    across: bool = False,
) -> None:
    """Print how well the images agree before and after, both on one coarse level."""
    from xdreg.field import identity
    from xdreg.metrics import mutual_information, normalised_correlation
    from xdreg.resampling import warp

    reference, source = (
        next((v for v in levels if v.size <= AGREEMENT_VOXELS), levels[-1])
        for levels in (fixed, moving)
    )
    # An image without a pyramid is looked at every so many voxels.
    stride = max(1, round((reference.size / AGREEMENT_VOXELS) ** (1 / reference.ndim)))
    reference = reference.isel(
        {dim: slice(None, None, min(stride, n)) for dim, n in reference.sizes.items()}
    )
    measure = mutual_information if across else normalised_correlation
    before, after = (
        measure(
            reference.values,
            warp(
                mapping, source.astype("float32"), like=reference, fill_value=np.nan
            ).values,
        )
        for mapping in (identity(field), field)
    )
    name = "information" if across else "correlation"
    _out.print(
        f"{name:<12} {before:.3f} before, {after:.3f} after, where the images overlap",
        highlight=False,
        soft_wrap=True,
    )


def _summary(field: xr.Dataset, seconds: float | None = None) -> None:
    """Print blocks by status and their similarity, time and memory."""
    from xdreg.field import status_counts
    from xdreg.pose import pose_text

    if "block_status" not in field:
        return
    rows = {"metric": field.attrs["metric"]} if "metric" in field.attrs else {}
    if "pose" in field.attrs:
        units = field["displacement"].attrs.get("units")
        rows["pose"] = pose_text(json.loads(field.attrs["pose"]), units)
    rows |= {
        "blocks": ", ".join(f"{n} {what}" for what, n in status_counts(field).items())
    }
    names = [f"block_similarity_{w}" for w in ("before", "after")]
    similarity = [field[name].values for name in names if name in field]
    if similarity and all(np.isfinite(values).any() for values in similarity):
        before, after = (float(np.nanmean(values)) for values in similarity)
        rows["last stage"] = f"similarity of its blocks {before:.3f} → {after:.3f}"
    if seconds is not None:
        rows["time"] = f"{seconds:.1f} s"
        rows["peak memory"] = f"{_peak_memory():.2f} GB in the largest process"
    for name, text in rows.items():
        _out.print(f"{name:<12} {text}", highlight=False, soft_wrap=True)


def _peak_memory() -> float:
    """Return the largest resident size of this process or any engine process, in GB."""
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    peak = max(resource.getrusage(w).ru_maxrss for w in who)
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e9


def main() -> None:
    """Run the command; a user's mistake ends it with one line and exit code 1."""
    try:
        app(standalone_mode=False)
    except XdregError as error:
        Console(stderr=True).print(
            f"xdreg: {error}",
            style="red",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
        sys.exit(1)
    except typer.Abort:
        sys.exit(130)
    except Exception as error:
        # Click's usage errors know how to show themselves; anything else is a bug.
        if hasattr(error, "show") and hasattr(error, "exit_code"):
            error.show()
            sys.exit(error.exit_code)
        raise
