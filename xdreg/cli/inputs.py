"""What a run is told: arguments, options file, and the images that they name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from xdreg.cli.common import open_path, open_transform
from xdreg.cli.options_file import read_options
from xdreg.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import xarray as xr

    from xdreg.registration.inputs import Channels
    from xdreg.stages import Stage

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


def merged(context: typer.Context, options: Path | None) -> dict[str, Any]:
    """Return the options: of the command line, else of the file, else the defaults."""
    stored = {} if options is None else read_options(options)
    # An option that may be given again is empty where it was not.
    given: dict[str, Any] = {
        name: (list(value) or None) if isinstance(value, list | tuple) else value
        for name, value in context.params.items()
    }
    for name in ("block_shape", "overlap"):
        given[name] = _voxels(given[name], name)
    # Typer brings its own click from some version on; the name is the same in both.
    typed = {
        name
        for name in given
        if getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE"
    }
    given |= {name: value for name, value in stored.items() if name not in typed}
    for name in typed & {"metric", "block_shape", "overlap"}:
        _refuse_where_stages_say(name, stored.get("stages", ()), options)
    return given


def _refuse_where_stages_say(name: str, stages: Sequence[Stage], file: Any) -> None:
    """Refuse an option that would be ignored, for stages have it of their own."""
    for number, stage in enumerate(stages):
        if getattr(stage, name, None) is not None:
            flag = "--" + name.replace("_", "-")
            msg = f"{flag} has no effect on stage {number} of {file}, which has its "
            msg += f"own {name}; change it there, or leave {flag} out"
            raise InputError(msg)


def require(given: dict[str, Any], **flags: str) -> None:
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


def opened(given: dict[str, Any]) -> tuple[list[Any], list[Any], Any]:
    """Return the images, the masks and the transform to start from."""
    images = [open_path(given[name]) for name in ("fixed", "moving")]
    masks = [
        mask if mask in (None, "auto") else open_path(mask)
        for mask in (given["fixed_mask"], given["moving_mask"])
    ]
    start = given["initial"]
    return images, masks, None if start is None else open_transform(start)


def planning(given: dict[str, Any], start: Any) -> dict[str, Any]:
    """Return the options that decide on stages and blocks."""
    names = "metric", "block_shape", "overlap"
    chosen = {name: given[name] for name in names}
    return {**chosen, "stages": given.get("stages"), "initial": start}


def both_channels(
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
    """Return channels by their names, else their numbers; one alone as it is."""
    if given is None:
        return None
    asked = given if isinstance(given, list) else [given]
    found = [named_channel(image, channel) for channel in asked]
    return found[0] if len(found) == 1 else found


def named_channel(image: xr.DataArray, given: int | str) -> int | str:
    """Return a channel by its name, else its number.

    The name comes first: channels are often called by a wavelength.
    """
    from xdreg.stores.channels import has_channel

    if not isinstance(given, str) or not given.isdigit() or has_channel(image, given):
        return given
    return int(given)
