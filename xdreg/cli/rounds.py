"""The command ``rounds``: several moving images registered to one fixed image."""

from __future__ import annotations

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
    open_path,
    output_folder,
)
from xdreg.cli.options_file import (
    NO_PATHS,
    check_options_file,
    write_options,
)
from xdreg.cli.register import FAILED, how_to_resume
from xdreg.cli.speaking import Quiet, ShowProgress, Stopped, Verbose, note
from xdreg.errors import InputError
from xdreg.stores.paths import as_address

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xdreg.registration.inputs import Channels
    from xdreg.registration.plan import Plan
    from xdreg.registration.rounds_result import Rounds

#: Endings that do not belong to the name of an image, the longest first.
_ENDINGS = (".ome.zarr", ".ome.tiff", ".ome.tif", ".nii.gz")

_EACH = "for all rounds, or NAME=VALUE for one; repeat it."

RoundPaths = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="ROUNDS",
        help="Moving images, named by their files, or as NAME=IMAGE.",
    ),
]
Folder = Annotated[
    Path | None,
    typer.Option(
        "-o",
        "--output",
        metavar="FOLDER",
        help="Folder to write to.",
        parser=given_path,
    ),
]
ByRound = Annotated[
    list[str] | None,
    typer.Option(metavar="[NAME=]MASK", help=f"Mask, auto or none: {_EACH}"),
]
Starts = Annotated[
    list[str] | None,
    typer.Option(metavar="[NAME=]TRANSFORM", help=f"Transform to start from, {_EACH}"),
]
RoundChannels = Annotated[
    list[str] | None,
    typer.Option(metavar="[NAME=]CHANNEL", help=f"Channel, if different: {_EACH}"),
]


def rounds(
    context: typer.Context,
    fixed: inputs.Fixed = None,
    rounds: RoundPaths = None,
    output: Folder = None,
    metric: inputs.MetricName = "auto",
    block_shape: inputs.BlockShape = None,
    overlap: inputs.Overlap = None,
    finest_level: inputs.FinestLevel = 0,
    fixed_mask: inputs.Mask = None,
    moving_mask: ByRound = None,
    channel: inputs.ChannelNames = None,
    moving_channel: RoundChannels = None,
    initial: Starts = None,
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
    """Register ROUNDS to FIXED; write their fields and one image of all channels.

    Writes aligned.ome.zarr, fields/NAME.ome.zarr, rounds.csv and, with matplotlib and
    jinja2, rounds.html. A round that fails is named, the others are done, and the exit
    code is 3.

    Example: xdreg rounds r1.ome.zarr r2.ome.zarr r3.ome.zarr --channel DAPI -o out
    """
    given = inputs.merged(context, options)
    if given.get("moving") is not None:
        msg = f"{options} names a moving image; name rounds in the command"
        raise InputError(msg)
    inputs.require(given, fixed="FIXED", rounds="ROUNDS", output="-o")
    if not isinstance(given["rounds"], dict):
        given["rounds"] = _named(given["rounds"])
    for name in ("moving_mask", "initial", "moving_channel"):
        given[name] = _by_round(given, name)
    try:
        with (
            on_cluster(scheduler, given["workers"]),
            output_folder(Path(given["output"])),
        ):
            values, lines = _run(
                given, save_options, progress=progress, overwrite=overwrite
            )
    except KeyboardInterrupt:
        raise Stopped(how_to_resume(given["workdir"])) from None
    answer(values, lines, as_json=as_json)
    if any(entry["verdict"] == "failed" for entry in values["rounds"].values()):
        raise typer.Exit(FAILED)


def _run(
    given: dict[str, Any],
    save_options: Path | None,
    *,
    progress: bool,
    overwrite: bool,
) -> tuple[dict[str, Any], dict[str, str]]:
    """Register, write outputs; return values for JSON and lines of text."""
    from xdreg.fields.store import save_field
    from xdreg.registration.rounds import register_rounds
    from xdreg.stores.outputs import new_file
    from xdreg.stores.progress import working

    targets = _targets(given, save_options, overwrite=overwrite)
    with working("opening images", enabled=progress):
        fixed = open_path(given["fixed"])
        images = {name: open_path(path) for name, path in given["rounds"].items()}
        options = _options(given, fixed, images)
    found = register_rounds(
        fixed,
        images,
        **options,
        workdir=given["workdir"],
        retry=given["retry"] or (),
        fresh=given["fresh"],
        progress=progress,
    )
    for name, field in found.items():
        save_field(field, targets[name], overwrite=overwrite, progress=progress)
    found.warp_to(
        targets["aligned"],
        overwrite=overwrite,
        fresh=given["fresh"],
        progress=progress,
    )
    table = found.table
    with new_file(targets["table"], overwrite=overwrite) as file:
        table.to_csv(file, encoding="utf-8")
    report = _report(found, targets["report"], overwrite=overwrite)
    if save_options is not None:
        plans = {name: _plan(given, found, options, name) for name in images}
        write_options(save_options, given, plans, overwrite=overwrite)
    rows = table.astype(object).to_dict("index")
    for name in found:
        rows[name]["field"] = targets[name]
    values = {"rounds": rows, "aligned": targets["aligned"], "table": targets["table"]}
    lines = {str(name): _line(row) for name, row in rows.items()}
    written = (targets["aligned"], targets["table"], report, save_options)
    lines["wrote"] = ", ".join(str(path) for path in written if path is not None)
    return values | {"report": report, "options": save_options}, lines


def _plan(
    given: Mapping[str, Any], found: Rounds, options: Mapping[str, Any], name: str
) -> Plan:
    """Return the plan of a round, with its metric if that was chosen."""
    from xdreg.registration.register import plan

    own = inputs.planning(dict(given), options["initial"].get(name))
    if isinstance(own["stages"], dict):
        own["stages"] = own["stages"].get(name)
    made = plan(
        found.fixed,
        found.moving[name],
        **own,
        channel=options["channel"],
        moving_channel=options["moving_channel"].get(name),
    )
    if made.undecided and name in found:
        return made.decided(found[name].attrs["metric"].partition(",")[0])
    return made


def _targets(
    given: Mapping[str, Any], save_options: Path | None, *, overwrite: bool
) -> dict[str, Path]:
    """Return the paths of all outputs, those of fields by round; check them."""
    from xdreg.registration.rounds import folder_name
    from xdreg.stores.apart import check_apart
    from xdreg.stores.outputs import check_file, check_target

    folder, paths = Path(given["output"]), given["rounds"]
    stores = {n: folder / "fields" / f"{folder_name(n)}.ome.zarr" for n in paths}
    stores |= {"aligned": folder / "aligned.ome.zarr"}
    files = {"table": folder / "rounds.csv", "report": folder / "rounds.html"}
    several = [given[name] for name in ("moving_mask", "initial")]
    read = [given["fixed"], given["fixed_mask"], *paths.values()]
    read += [value for values in several for value in values.values()]
    read = [text for text in read if text not in (None, *NO_PATHS)]
    for target in (*stores.values(), *files.values(), save_options):
        if target is not None:
            check_apart(target, *read)
    check_options_file(save_options, overwrite=overwrite)
    for target in stores.values():
        check_target(target, overwrite=overwrite)
    for target in files.values():
        check_file(target, overwrite=overwrite)
    return stores | files


def _options(
    given: dict[str, Any], fixed: Any, images: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the arguments of `xdreg.register_rounds`."""
    from xdreg.stores.pyramid import image_levels

    def named(image: Any, name: str, channel: Any) -> Channels:
        return inputs.named_channels(image_levels(image, name)[0], channel)

    channels, masks = given["moving_channel"], given["moving_mask"]
    start = {n: inputs.opened_start(value) for n, value in given["initial"].items()}
    return {
        **inputs.planning(given, start),
        "fixed_mask": inputs.opened_mask(given["fixed_mask"]),
        "moving_mask": {n: inputs.opened_mask(v) for n, v in masks.items()},
        "channel": named(fixed, "fixed", given["channel"]),
        "moving_channel": {n: named(images[n], n, v) for n, v in channels.items()},
    }


def _by_round(given: Mapping[str, Any], option: str) -> dict[str, Any]:
    """Return the values of an option by round, of which one may be for all."""
    values, names = given[option], list(given["rounds"])
    if values is None:
        return {}
    if isinstance(values, dict):
        unknown = [name for name in values if name not in names]
        if unknown:
            msg = f"{option} is given for {unknown[0]!r}; rounds are {', '.join(names)}"
            raise InputError(msg)
        return values
    values = values if isinstance(values, list) else [values]
    parts = [str(value).partition("=") for value in values]
    named = {name: value for name, sep, value in parts if sep and name in names}
    if not named and len(values) == 1:
        return dict.fromkeys(names, values[0])
    if len(named) < len(values):
        msg = (
            f"--{option.replace('_', '-')} takes one value, or NAME=VALUE for each of "
            f"the rounds {', '.join(names)}; got {', '.join(map(str, values))}"
        )
        raise InputError(msg)
    return named


def _named(given: list[str]) -> dict[str, str]:
    """Return the paths of rounds by their names."""
    found: dict[str, str] = {}
    for text in given:
        name, sep, path = text.partition("=")
        if not sep or "/" in name or Path(text).exists():
            name, path = _name_of(text), text
        if name in found:
            msg = (
                f"{found[name]} and {path} are both named {name}; name one, for "
                f"example {name}b={path}"
            )
            raise InputError(msg)
        found[name] = path
    return found


def _name_of(path: str) -> str:
    """Return the name of an image: that of its file, without the ending."""
    name = as_address(path).rstrip("/").rpartition("/")[2]
    for ending in _ENDINGS:
        if name.lower().endswith(ending):
            return name[: -len(ending)]
    return Path(name).stem


def _report(found: Rounds, path: Path, *, overwrite: bool) -> Path | None:
    """Write the report; return its path, None if packages for it are missing."""
    from xdreg.views.rounds_report import report_rounds

    try:
        return report_rounds(found, path, overwrite=overwrite)
    except ImportError as error:
        note(f"no report: {error}")
        return None


def _line(row: Mapping[str, Any]) -> str:
    """Return a round's row as a line of text."""
    text = str(row["verdict"])
    if row["metric"] == row["metric"] and row["metric"]:
        text += (
            f", {row['metric']}, similarity {row['similarity_before']:.3f} → "
            f"{row['similarity_after']:.3f}"
        )
    return f"{text}: {row['reasons']}" if row["reasons"] else text
