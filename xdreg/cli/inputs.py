"""Arguments of `register` and `plan`, from the command line and an options file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from xdreg.cli.common import (
    FIXED,
    MOVING,
    given_path,
    open_path,
    open_transform,
    whole_numbers,
)
from xdreg.cli.options_file import (
    NO_PATHS,
    ROUNDS,
    check_for_a_pair,
    read_options,
)
from xdreg.cli.speaking import note
from xdreg.errors import InputError, StoreError
from xdreg.stages import CENTERS

if TYPE_CHECKING:
    from collections.abc import Sequence

    import xarray as xr

    from xdreg.registration.inputs import Channels
    from xdreg.stages import Stage

# Optional, since the options file may name the images.
Fixed = Annotated[str | None, FIXED]
Moving = Annotated[str | None, MOVING]
OptionsFile = Annotated[
    Path | None,
    typer.Option(
        "--options",
        metavar="FILE",
        help="TOML or YAML file with images, output, options and stages; the command "
        "line takes precedence.",
        parser=given_path,
    ),
]
SaveOptions = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Write all images, options and stages as TOML or YAML, for --options.",
        parser=given_path,
    ),
]
MetricName = Annotated[
    Literal["auto", "lncc", "mind", "ncc", "mi", "msd"],
    typer.Option(
        metavar="METRIC",
        help="lncc, ncc: one modality; mind, mi: across modalities; msd: equal "
        "intensities; auto: lncc or mind, chosen from the images.",
    ),
]
BlockShape = Annotated[
    str | None,
    typer.Option(
        metavar="VOXELS", help="Voxels of a block: one number, or 32,64,64 per axis."
    ),
]
Overlap = Annotated[
    str | None,
    typer.Option(
        metavar="VOXELS",
        help="Overlap per side: voxels, or 10% of the block; one, or one per axis.",
    ),
]
FinestLevel = Annotated[
    int,
    typer.Option(
        metavar="LEVEL",
        help="Finest level to register, 0 the voxels of FIXED; plan compares them.",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        metavar="NUMBER",
        help="Most blocks at once on this machine; by default one per core.",
    ),
]
Memory = Annotated[
    str | None,
    typer.Option(
        metavar="BYTES",
        help="Memory for the run on this machine, as 8GB: fewer blocks at once where "
        "it is short.",
    ),
]
Initial = Annotated[
    str | None,
    typer.Option(
        metavar="TRANSFORM",
        help="Transform fixed → moving to start from: a field, a transform that ITK "
        "reads, a homogeneous matrix in a CSV file; or centers, or centers_of_mass.",
    ),
]
Mask = Annotated[
    str | None,
    typer.Option(
        metavar="MASK", help="Mask of the image, auto, or none to count padding."
    ),
]
AllowMirror = Annotated[
    bool,
    typer.Option(
        "--allow-mirror", help="Search mirrored poses of the moving image, too."
    ),
]
ChannelNames = Annotated[
    list[str] | None,
    typer.Option(
        metavar="CHANNEL",
        help="Channel, by name or number; luminance, of RGB; or all. Repeat it to "
        "register several jointly.",
    ),
]
MovingChannelNames = Annotated[
    list[str] | None,
    typer.Option(metavar="CHANNEL", help="Channel of MOVING, if different."),
]
WorkDir = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER", help="Keep the run here, to resume it.", parser=given_path
    ),
]
Retry = Annotated[
    list[str] | None,
    typer.Option(
        metavar="STATUS",
        help="Status of blocks to run again when a run is resumed: crashed or timeout. "
        "Repeat it for several.",
    ),
]
Fresh = Annotated[
    bool,
    typer.Option(
        "--fresh", help="Remove the run that --workdir holds, and start anew."
    ),
]
Scheduler = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="Dask scheduler of a cluster to run on, as tcp://host:8786; by default "
        "all local cores.",
    ),
]

_BY_DEFAULT = "by default the one recorded in FIELD."
FixedOfField = Annotated[
    str | None, typer.Argument(metavar="FIXED", help=f"Fixed image; {_BY_DEFAULT}")
]
MovingOfField = Annotated[
    str | None, typer.Argument(metavar="MOVING", help=f"Moving image; {_BY_DEFAULT}")
]
Trust = Annotated[
    bool,
    typer.Option(
        "--trust", help="Open images on servers, too, because FIELD names them."
    ),
]


def merged(context: typer.Context, options: Path | None) -> dict[str, Any]:
    """Return options from the command line, else the file, else the defaults."""
    stored = {} if options is None else read_options(options)
    if ROUNDS not in context.params:
        check_for_a_pair(stored, options)
    # An option that may be repeated is an empty list where it is absent.
    given: dict[str, Any] = {
        name: (list(value) or None) if isinstance(value, list | tuple) else value
        for name, value in context.params.items()
    }
    given["block_shape"] = whole_numbers(given["block_shape"], "--block-shape")
    given["overlap"] = _overlap(given["overlap"])
    # Later versions of Typer bring their own click: compare the source by its name.
    typed = {
        name
        for name in given
        if getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE"
    }
    given |= {name: value for name, value in stored.items() if name not in typed}
    for name in typed & {"metric", "block_shape", "overlap"}:
        _check_unset_in_stages(name, stored.get("stages", ()), options)
    return given


def _overlap(text: str | None) -> Any:
    """Return voxels, or shares such as ``"10%"`` as text, one or one per axis."""
    if text is None:
        return None
    parts = [int(part) if part.isdecimal() else part for part in text.split(",")]
    return parts[0] if len(parts) == 1 else parts


def _check_unset_in_stages(
    name: str, stages: Sequence[Stage] | dict[str, Sequence[Stage]], file: Any
) -> None:
    """Raise if a stage has a value of its own for an option, which it would keep."""
    every = stages.values() if isinstance(stages, dict) else [stages]
    for number, stage in (pair for own in every for pair in enumerate(own)):
        if getattr(stage, name, None) is not None:
            flag = "--" + name.replace("_", "-")
            msg = (
                f"{flag} has no effect on stage {number} of {file}, which has its own "
                f"{name}; change it there, or leave {flag} out"
            )
            raise InputError(msg)


def require(given: dict[str, Any], **flags: str) -> None:
    """Raise if a value is missing from both command line and options file."""
    for name, flag in flags.items():
        if given[name] is None:
            msg = f"it is missing; give it, or {name} in the file of --options"
            raise typer.BadParameter(msg, param_hint=flag)


def opened(given: dict[str, Any]) -> tuple[list[Any], list[Any], Any]:
    """Open the images, the masks and the initial transform."""
    images = [open_path(given[name]) for name in ("fixed", "moving")]
    masks = [opened_mask(given[name]) for name in ("fixed_mask", "moving_mask")]
    return images, masks, opened_start(given["initial"])


def opened_mask(given: str | None) -> Any:
    """Return a mask as `xdreg.register` takes it."""
    names = {None: None, "auto": "auto", "none": False}
    return names[given] if given in names else open_path(str(given))


def opened_start(given: str | None) -> Any:
    """Return where to start, as `xdreg.register` takes it."""
    return given if given in (None, *CENTERS) else open_transform(str(given))


def given_or_recorded(
    opened: xr.Dataset,
    field: str,
    given: tuple[str | None, str | None],
    *,
    trust: bool,
) -> list[Any]:
    """Open the images that the user gives, else those that the field names."""
    from xdreg.fields.provenance import IMAGES, recorded_image

    images = []
    for name, path in zip(IMAGES, given, strict=True):
        place = path or recorded_image(opened, name, trust=trust)
        if place is None:
            msg = f"{field} does not record its {name} image; give FIXED and MOVING"
            raise InputError(msg)
        if path is None:
            note(f"opening {place}, the {name} image that {field} names")
        try:
            images.append(open_path(place))
        except StoreError as error:
            if path is not None:
                raise
            msg = f"{error}; {field} records it as {name} image: give FIXED and MOVING"
            raise StoreError(msg) from error
    return images


def addresses(given: dict[str, Any]) -> list[str]:
    """Return the paths and URLs of all that is read."""
    names = ("fixed", "moving", "fixed_mask", "moving_mask", "initial")
    return [given[n] for n in names if given.get(n) not in (None, *NO_PATHS)]


def planning(given: dict[str, Any], start: Any) -> dict[str, Any]:
    """Return the arguments of `xdreg.plan`."""
    names = (
        *("metric", "block_shape", "overlap", "finest_level", "allow_mirror"),
        *("workers", "memory"),
    )
    chosen = {name: given[name] for name in names}
    return chosen | {"stages": given.get("stages"), "initial": start}


def both_channels(
    levels: list[list[xr.DataArray]], given: dict[str, Any]
) -> list[Channels]:
    """Return the channels of both images, by default those of the fixed one."""
    from xdreg.stores.channels import counterpart

    fixed, moving = (image[0] for image in levels)
    other = counterpart(given["channel"], given["moving_channel"], moving)
    return [named_channels(fixed, given["channel"]), named_channels(moving, other)]


def named_channels(image: xr.DataArray, given: Any) -> Channels:
    """Return channels by name or number; a single one not as a list."""
    if given is None:
        return None
    asked = given if isinstance(given, list) else [given]
    found = [named_channel(image, channel) for channel in asked]
    return found[0] if len(found) == 1 else found


def shown_channel(image: Any, given: str | None) -> int | str | None:
    """Return the channel of an image to show, by name, else by number."""
    from xdreg.stores.pyramid import image_levels

    if given is None:
        return None
    return named_channel(image_levels(image, "image")[0], given)


def named_channel(image: xr.DataArray, given: int | str) -> int | str:
    """Return a channel by name, such as a wavelength, else by number."""
    from xdreg.stores.channels import has_channel

    if not isinstance(given, str) or not given.isdigit() or has_channel(image, given):
        return given
    return int(given)
