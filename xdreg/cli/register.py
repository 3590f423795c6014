"""The commands ``register`` and ``plan``: run a registration, or show its plan."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xdreg.cli import inputs
from xdreg.cli.common import (
    AsJson,
    Overwrite,
    answer,
    given_path,
    on_cluster,
    output_folder,
    show,
)
from xdreg.cli.options_file import check_options_file, write_options
from xdreg.cli.speaking import Quiet, ShowProgress, Stopped, Verbose
from xdreg.cli.summary import agreement, one_channel, outcome, verdict_line

if TYPE_CHECKING:
    from xdreg.registration.plan import Plan

#: Exit code of a registration that failed by its verdict.
FAILED = 3


def register(
    context: typer.Context,
    fixed: inputs.Fixed = None,
    moving: inputs.Moving = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="FOLDER",
            help="Folder to write to.",
            parser=given_path,
        ),
    ] = None,
    metric: inputs.MetricName = "auto",
    block_shape: inputs.BlockShape = None,
    overlap: inputs.Overlap = None,
    finest_level: inputs.FinestLevel = 0,
    fixed_mask: inputs.Mask = None,
    moving_mask: inputs.Mask = None,
    channel: inputs.ChannelNames = None,
    moving_channel: inputs.MovingChannelNames = None,
    initial: inputs.Initial = None,
    allow_mirror: inputs.AllowMirror = False,
    workdir: inputs.WorkDir = None,
    retry: inputs.Retry = None,
    fresh: inputs.Fresh = False,
    scheduler: inputs.Scheduler = None,
    workers: inputs.Workers = None,
    memory: inputs.Memory = None,
    options: inputs.OptionsFile = None,
    save_options: inputs.SaveOptions = None,
    as_json: AsJson = False,
    progress: ShowProgress = True,
    verbose: Verbose = False,
    quiet: Quiet = False,
    overwrite: Overwrite = False,
) -> None:
    """Register MOVING to FIXED; write field.ome.zarr and moved.ome.zarr.

    With --workdir, the same command resumes a run that was stopped. The last line is
    the verdict: good, doubtful, or failed, with exit code 3.

    Example: xdreg register fixed.ome.zarr moving.ome.zarr -o out
    """
    began = time.perf_counter()
    given = inputs.merged(context, options)
    inputs.require(given, fixed="FIXED", moving="MOVING", output="-o")
    try:
        with (
            on_cluster(scheduler, given["workers"]),
            output_folder(Path(given["output"])),
        ):
            values, lines = _run(
                given, save_options, began, progress=progress, overwrite=overwrite
            )
    except KeyboardInterrupt:
        raise Stopped(how_to_resume(given["workdir"])) from None
    answer(values, lines, as_json=as_json)
    if values["verdict"]["word"] == "failed":
        raise typer.Exit(FAILED)


def _run(
    given: dict[str, Any],
    save_options: Path | None,
    began: float,
    *,
    progress: bool,
    overwrite: bool,
) -> tuple[dict[str, Any], dict[str, str]]:
    """Register, write outputs, compare; return values for JSON and lines of text."""
    from xdreg.fields.provenance import last_metric
    from xdreg.fields.store import save_field
    from xdreg.fields.warp_to import warp_to
    from xdreg.registration.register import plan as make_plan
    from xdreg.registration.register import register as run
    from xdreg.stores.apart import check_apart
    from xdreg.stores.outputs import check_target
    from xdreg.stores.progress import working
    from xdreg.stores.pyramid import image_levels

    folder = Path(given["output"])
    targets = folder / "field.ome.zarr", folder / "moved.ome.zarr"
    with working("opening images", enabled=progress):
        images, masks, start = inputs.opened(given)
        for target in (*targets, save_options):
            if target is not None:
                check_apart(target, *inputs.addresses(given))
        for target in targets:
            check_target(target, overwrite=overwrite)
        check_options_file(save_options, overwrite=overwrite)
        levels = [image_levels(images[0], "fixed"), image_levels(images[1], "moving")]
        channels = inputs.both_channels(levels, given)
    field = run(
        *images,
        **inputs.planning(given, start),
        fixed_mask=masks[0],
        moving_mask=masks[1],
        channel=channels[0],
        moving_channel=channels[1],
        workdir=given["workdir"],
        retry=given["retry"] or (),
        fresh=given["fresh"],
        progress=progress,
    )
    save_field(field, targets[0], overwrite=overwrite, progress=progress)
    warp_to(
        field,
        images[1],
        targets[1],
        overwrite=overwrite,
        fresh=given["fresh"],
        progress=progress,
    )
    with working("comparing", enabled=progress):
        found = agreement(
            field,
            one_channel(levels[0], channels[0], "fixed"),
            one_channel(levels[1], channels[1], "moving"),
            across=last_metric(field) in ("mind", "mi"),
        )
    if save_options is not None:
        chosen: dict[str, Any] = {"channel": channels[0], "moving_channel": channels[1]}
        made = make_plan(*images, **inputs.planning(given, start) | chosen)
        if made.undecided:
            made = made.decided(field.attrs["metric"].partition(",")[0])
        write_options(save_options, given, made, overwrite=overwrite)
    written = {"field": targets[0], "moved": targets[1], "options": save_options}
    files = ", ".join(str(path) for path in written.values() if path is not None)
    values, lines = outcome(field, found, began)
    lines |= {"wrote": files, "verdict": verdict_line(values)}
    return written | values, lines


def plan(
    context: typer.Context,
    fixed: inputs.Fixed = None,
    moving: inputs.Moving = None,
    metric: inputs.MetricName = "auto",
    block_shape: inputs.BlockShape = None,
    overlap: inputs.Overlap = None,
    finest_level: inputs.FinestLevel = 0,
    channel: inputs.ChannelNames = None,
    moving_channel: inputs.MovingChannelNames = None,
    initial: inputs.Initial = None,
    allow_mirror: inputs.AllowMirror = False,
    workers: inputs.Workers = None,
    memory: inputs.Memory = None,
    options: inputs.OptionsFile = None,
    save_options: inputs.SaveOptions = None,
    as_json: AsJson = False,
    overwrite: Overwrite = False,
) -> None:
    """Print the stages, blocks, memory and bytes of a registration; nothing runs.

    Example: xdreg plan fixed.ome.zarr moving.ome.zarr --save-options run.toml
    """
    from xdreg.registration.register import plan as make_plan
    from xdreg.stores.apart import check_apart
    from xdreg.stores.pyramid import image_levels

    given = inputs.merged(context, options)
    inputs.require(given, fixed="FIXED", moving="MOVING")
    if save_options is not None:
        check_apart(save_options, *inputs.addresses(given))
    check_options_file(save_options, overwrite=overwrite)
    images, _, start = inputs.opened(given | {"fixed_mask": None, "moving_mask": None})
    levels = [
        image_levels(image, name)
        for image, name in zip(images, ("fixed", "moving"), strict=True)
    ]
    channels = inputs.both_channels(levels, given)
    chosen: dict[str, Any] = {"channel": channels[0], "moving_channel": channels[1]}
    made = make_plan(*images, **inputs.planning(given, start) | chosen)
    if save_options is not None:
        write_options(save_options, given, made, overwrite=overwrite)
    if not as_json:
        show(str(made))
        if save_options is not None:
            show(f"wrote {save_options}")
        return
    answer(_plan_values(made) | {"options": save_options}, {}, as_json=True)


def _plan_values(made: Plan) -> dict[str, Any]:
    """Return a plan as plain values for JSON."""
    stages = [
        {
            "stage": stage.options.name,
            "metric": stage.metric,
            "fixed_level": stage.fixed_level,
            "moving_level": stage.moving_level,
            "image_shape": stage.partition.grid.shape,
            "blocks": stage.partition.counts,
            "window_shape": stage.partition.window_shape,
            "field_shape": stage.partition.field_grid.shape,
            "block_memory_bytes": made.block_memory(stage),
            "bytes_read": made.bytes_read(stage),
            "core_seconds": stage.core_seconds,
        }
        for stage in made.stages
    ]
    levels = [
        {
            "finest_level": plan.finest_level,
            "core_seconds": plan.core_seconds,
            "bytes_read": sum(map(plan.bytes_read, plan.stages)),
            "workdir_bytes": plan.workdir_bytes(),
            "field_spacing": plan.field_spacing,
        }
        for plan in made.alternatives
    ]
    return {
        "stages": stages,
        "finest_levels": levels,
        "blocks_at_once": made.blocks_at_once,
        "peak_memory_bytes": made.peak_memory(made.blocks_at_once),
        "worker_memory_bytes": made.worker_memory(),
        "workdir_bytes": made.workdir_bytes(),
        "temporary_workdir_bytes": made.workdir_bytes(kept=False),
    }


def how_to_resume(workdir: Any) -> str:
    """Return what to say of a run that was stopped."""
    if workdir is None:
        return "stopped; nothing is kept. With --workdir FOLDER a run can be resumed"
    return f"stopped; finished blocks are kept in {workdir}: the same command resumes"
