"""Commands that run a registration, or tell what it would do: register, plan."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from xdreg.cli_common import (
    AsJson,
    Overwrite,
    ShowProgress,
    Stopped,
    answer,
    make_folder,
    on_cluster,
    open_path,
    open_transform,
    show,
)
from xdreg.cli_options import check_options_file, read_options, write_options
from xdreg.cli_summary import (
    agreement,
    agreement_lines,
    cost,
    field_summary,
    last_metric,
    one_channel,
    summary_lines,
)
from xdreg.errors import InputError
from xdreg.progress import working

if TYPE_CHECKING:
    import xarray as xr

    from xdreg.inputs import Channels
    from xdreg.planning import Plan

# Images may stand in the options file instead.
Fixed = Annotated[
    str | None,
    typer.Argument(
        metavar="FIXED", help="Fixed image: OME-Zarr, or any file that ITK reads."
    ),
]
Moving = Annotated[
    str | None,
    typer.Argument(metavar="MOVING", help="Moving image, of any kind as FIXED."),
]
OptionsFile = Annotated[
    Path | None,
    typer.Option(
        "--options",
        metavar="FILE",
        help="TOML or YAML to take images, output, options and stages from; what the "
        "command line says comes first.",
    ),
]
SaveOptions = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Write all that was used as TOML or YAML, for --options.",
    ),
]
MetricName = Annotated[
    Literal["auto", "lncc", "mind", "ncc", "mi", "msd"],
    typer.Option(
        metavar="METRIC",
        help="lncc, ncc: one modality; mind, mi: across; msd: equal intensities; "
        "auto: lncc or mind, by a look at the images.",
    ),
]
BlockShape = Annotated[
    str | None,
    typer.Option(
        metavar="VOXELS", help="Voxels of a block: one number, or as 32,64,64 per axis."
    ),
]
Overlap = Annotated[
    str | None,
    typer.Option(metavar="VOXELS", help="Voxels of overlap per side, likewise."),
]
Initial = Annotated[
    str | None,
    typer.Option(
        metavar="TRANSFORM",
        help="Where to start: a field, a transform that ITK reads, or a homogeneous "
        "matrix in a CSV file, fixed → moving.",
    ),
]


def register(
    context: typer.Context,
    fixed: Fixed = None,
    moving: Moving = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FOLDER", help="Folder to write to."),
    ] = None,
    metric: MetricName = "auto",
    block_shape: BlockShape = None,
    overlap: Overlap = None,
    fixed_mask: Annotated[
        str | None,
        typer.Option(metavar="MASK", help="Mask of the fixed image, or auto."),
    ] = None,
    moving_mask: Annotated[
        str | None,
        typer.Option(metavar="MASK", help="Mask of the moving image, or auto."),
    ] = None,
    channel: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CHANNEL",
            help="Channel, by name or number; luminance, of RGB; or all. Again for "
            "more, to register them jointly.",
        ),
    ] = None,
    moving_channel: Annotated[
        list[str] | None,
        typer.Option(metavar="CHANNEL", help="That of MOVING, if another."),
    ] = None,
    initial: Initial = None,
    workdir: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Keep the run here, to resume."),
    ] = None,
    retry: Annotated[
        list[str] | None,
        typer.Option(
            metavar="STATUS",
            help="Run blocks of this status again when the run is resumed: crashed, "
            "timeout. Again for more.",
        ),
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Dask scheduler of a cluster to run on, as tcp://host:8786; by "
            "default all local cores.",
        ),
    ] = None,
    options: OptionsFile = None,
    save_options: SaveOptions = None,
    as_json: AsJson = False,
    progress: ShowProgress = True,
    overwrite: Overwrite = False,
) -> None:
    """Register MOVING to FIXED; write field.ome.zarr and moved.ome.zarr.

    With --workdir the same command again goes on where it was stopped.

    Example: xdreg register fixed.ome.zarr moving.ome.zarr -o out
    """
    began = time.perf_counter()
    given = _merged(context, options)
    _require(given, fixed="FIXED", moving="MOVING", output="-o")
    try:
        with on_cluster(scheduler):
            values, lines = _run(
                given, save_options, progress=progress, overwrite=overwrite
            )
    except KeyboardInterrupt:
        raise Stopped(_how_to_go_on(given["workdir"])) from None
    spent, spent_lines = cost(time.perf_counter() - began)
    wrote = lines.pop("wrote")
    answer(values | spent, {**lines, **spent_lines, "wrote": wrote}, as_json=as_json)


def _run(
    given: dict[str, Any], save_options: Path | None, *, progress: bool, overwrite: bool
) -> tuple[dict[str, Any], dict[str, str]]:
    """Register, write, compare; return what to tell, for scripts and for people."""
    from xdreg.field import save_field
    from xdreg.multiscale import image_levels
    from xdreg.ome_zarr_writer import write_ome_zarr
    from xdreg.outputs import check_target
    from xdreg.registration import plan as make_plan
    from xdreg.registration import register as run
    from xdreg.resampling import warp

    folder = Path(given["output"])
    targets = folder / "field.ome.zarr", folder / "moved.ome.zarr"
    with working("opening images", enabled=progress):
        images, masks, start = _opened(given)
        make_folder(folder)
        for target in targets:
            check_target(target, overwrite=overwrite)
        check_options_file(save_options, overwrite=overwrite)
        levels = [
            image_levels(image, name)
            for image, name in zip(images, ("fixed", "moving"), strict=True)
        ]
        channels = _both_channels(levels, given)
    field = run(
        *images,
        **_planning(given, start),
        fixed_mask=masks[0],
        moving_mask=masks[1],
        channel=channels[0],
        moving_channel=channels[1],
        workdir=given["workdir"],
        retry=given["retry"] or (),
        progress=progress,
    )
    with working("writing the field", enabled=progress):
        save_field(field, targets[0], overwrite=overwrite)
    with working("warping", enabled=progress):
        moved = warp(field, images[1], like=levels[0][0])
        write_ome_zarr(moved, targets[1], overwrite=overwrite)
    with working("comparing", enabled=progress):
        found = agreement(
            field,
            one_channel(levels[0], channels[0], "fixed"),
            one_channel(levels[1], channels[1], "moving"),
            across=last_metric(field) in ("mind", "mi"),
        )
    if save_options is not None:
        made = make_plan(*images, **_planning(given, start))
        if made.undecided:
            made = made.decided(field.attrs["metric"].partition(",")[0])
        write_options(save_options, given, made, overwrite=overwrite)
    summary = field_summary(field)
    written = {"field": targets[0], "moved": targets[1], "options": save_options}
    files = ", ".join(str(path) for path in written.values() if path is not None)
    return (
        {**written, "agreement": found, **summary},
        {**agreement_lines(found), **summary_lines(summary), "wrote": files},
    )


def plan(
    context: typer.Context,
    fixed: Fixed = None,
    moving: Moving = None,
    metric: MetricName = "auto",
    block_shape: BlockShape = None,
    overlap: Overlap = None,
    initial: Initial = None,
    options: OptionsFile = None,
    save_options: SaveOptions = None,
    as_json: AsJson = False,
    overwrite: Overwrite = False,
) -> None:
    """Tell what register would do: stages, blocks, memory, bytes; nothing runs.

    Example: xdreg plan fixed.ome.zarr moving.ome.zarr --save-options run.toml
    """
    from xdreg.registration import plan as make_plan

    given = _merged(context, options)
    _require(given, fixed="FIXED", moving="MOVING")
    check_options_file(save_options, overwrite=overwrite)
    images, _, start = _opened(given | {"fixed_mask": None, "moving_mask": None})
    made = make_plan(*images, **_planning(given, start))
    if save_options is not None:
        write_options(save_options, given, made, overwrite=overwrite)
    if not as_json:
        show(str(made))
        if save_options is not None:
            show(f"wrote {save_options}")
        return
    answer(_plan_values(made) | {"options": save_options}, {}, as_json=True)


def _plan_values(made: Plan) -> dict[str, Any]:
    """Return a plan as JSON holds it."""
    stages = []
    for stage in made.stages:
        partition = stage.partition
        stages.append(
            {
                "stage": stage.options.name,
                "metric": stage.metric,
                "fixed_level": stage.fixed_level,
                "moving_level": stage.moving_level,
                "image_shape": list(partition.grid.shape),
                "blocks": list(partition.counts),
                "window_shape": list(partition.window_shape),
                "field_shape": list(partition.field_grid.shape),
                "block_memory_bytes": made.block_memory(stage),
                "bytes_read": made.bytes_read(stage),
            }
        )
    return {
        "stages": stages,
        "worker_memory_bytes": made.worker_memory(),
        "workdir_bytes": made.workdir_bytes(),
        "temporary_workdir_bytes": made.workdir_bytes(kept=False),
    }


def _merged(context: typer.Context, options: Path | None) -> dict[str, Any]:
    """Return the options: of the command line, else of the file, else the defaults."""
    stored = {} if options is None else read_options(options)
    # An option that may be given again is empty where it was not.
    given = {
        name: (list(value) or None) if isinstance(value, list | tuple) else value
        for name, value in context.params.items()
    }
    for name in ("block_shape", "overlap"):
        given[name] = _voxels(given[name], name)
    for name, value in stored.items():
        source = context.get_parameter_source(name)
        # Typer brings its own click from some version on; the name is the same in both.
        if source is None or source.name != "COMMANDLINE":
            given[name] = value
    return given


def _require(given: dict[str, Any], **flags: str) -> None:
    """Refuse what stands neither on the command line nor in the options file."""
    for name, flag in flags.items():
        if given[name] is None:
            msg = f"it is missing; name it, or give {name} in the file of --options"
            raise typer.BadParameter(msg, param_hint=flag)


def _voxels(text: str | None, name: str) -> int | list[int] | None:
    if text is None:
        return None
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError as error:
        flag = "--" + name.replace("_", "-")
        msg = f"{flag} takes whole numbers, as 64 or 32,64,64; got {text!r}"
        raise InputError(msg) from error
    return numbers[0] if len(numbers) == 1 else numbers


def _opened(given: dict[str, Any]) -> tuple[list[Any], list[Any], Any]:
    """Return the images, the masks and the transform to start from."""
    images = [open_path(given[name]) for name in ("fixed", "moving")]
    masks = [
        mask if mask in (None, "auto") else open_path(mask)
        for mask in (given["fixed_mask"], given["moving_mask"])
    ]
    start = given["initial"]
    return images, masks, None if start is None else open_transform(start)


def _planning(given: dict[str, Any], start: Any) -> dict[str, Any]:
    """Return the options that decide on stages and blocks."""
    names = "metric", "block_shape", "overlap"
    chosen = {name: given[name] for name in names}
    return {**chosen, "stages": given.get("stages"), "initial": start}


def _both_channels(
    levels: list[list[xr.DataArray]], given: dict[str, Any]
) -> list[Channels]:
    """Return the channels of both images; those of the fixed one serve for both."""
    fixed, moving = (image[0] for image in levels)
    first = named_channels(fixed, given["channel"])
    second = named_channels(moving, given["moving_channel"])
    if given["moving_channel"] is None and "c" in moving.dims:
        second = named_channels(moving, given["channel"])
    return [first, second]


def named_channels(image: xr.DataArray, given: Any) -> Channels:
    """Return channels by their names, else their numbers; one alone as it is.

    The name comes first: channels are often called by a wavelength.
    """
    if given is None:
        return None
    names = [str(v) for v in image["c"].values] if "c" in image.coords else []
    asked = given if isinstance(given, list) else [given]
    found = [
        int(v) if isinstance(v, str) and v.isdigit() and v not in names else v
        for v in asked
    ]
    return found[0] if len(found) == 1 else found


def _how_to_go_on(workdir: Any) -> str:
    if workdir is None:
        return (
            "stopped; nothing is kept. With --workdir FOLDER a run that is stopped "
            "can be resumed"
        )
    return f"stopped; what is done is kept in {workdir}: the same command goes on"
