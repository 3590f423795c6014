"""Several moving images registered to one fixed image: rounds of one specimen.

Every round is a run with a work directory of its own, below that of all of them. They
share the fixed image: its levels, masks and statistics are made once.

::

    run.json                what the rounds share: the fixed image
    fixed_levels, fixed_foreground.zarr, …    made of it
    rounds/NAME             the work directory of a round
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

import xarray as xr

from xdreg.errors import InputError, Interrupted, MethodError, XdregError, warn
from xdreg.fields.aligned import FIXED
from xdreg.registration.inputs import selections
from xdreg.registration.manifest import describe_fixed
from xdreg.registration.register import checked
from xdreg.registration.resources import Resources
from xdreg.registration.rounds_result import Rounds
from xdreg.registration.source import Source
from xdreg.registration.workdir import WorkDirectory
from xdreg.stores.channels import counterpart
from xdreg.stores.pyramid import build_pyramid, image_levels

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from xdreg.registration.inputs import Channels
    from xdreg.registration.progress import Listener
    from xdreg.registration.register import Request
    from xdreg.registration.run import Run
    from xdreg.stages import MetricOrAuto, Overlap

T = TypeVar("T")

_log = logging.getLogger(__name__)

#: Folder of the rounds in a work directory.
FOLDER = "rounds"

#: Most characters of a round's name, which is that of a folder, too.
LONGEST_NAME = 64


def register_rounds(
    fixed: Any,
    rounds: Mapping[str, Any],
    *,
    stages: Any = None,
    metric: MetricOrAuto = "auto",
    block_shape: int | Sequence[int] | None = None,
    overlap: Overlap | None = None,
    finest_level: int = 0,
    fixed_mask: Any = None,
    moving_mask: Any = None,
    initial: Any = None,
    allow_mirror: bool = False,
    channel: Channels = None,
    moving_channel: Any = None,
    workdir: str | Path | None = None,
    retry: str | Sequence[str] = (),
    fresh: bool = False,
    workers: int | None = None,
    memory: int | str | None = None,
    progress: bool | Listener = True,
) -> Rounds:
    """Register several moving images, the rounds, to one fixed image.

    Each round gets the field that `register` finds for it alone. The levels, masks and
    statistics of the fixed image are made once. All arguments of all rounds are checked
    before anything runs. A round that fails later does not stop the others: a warning
    and the table say why.

    Parameters
    ----------
    fixed : DataTree, DataArray or itk.Image
        The fixed image.
    rounds : mapping of str to DataTree, DataArray or itk.Image
        The moving images by name, such as ``{"r2": image, "r3": other}``.
    metric, block_shape, overlap, finest_level, allow_mirror, fixed_mask
        As in `register`, for all rounds.
    stages, moving_mask, initial, moving_channel
        As in `register`, one for all rounds, or a dict with those of some by name. The
        others then have the default.
    channel
        As in `register`. A round without this channel needs its ``moving_channel``.
    workdir
        Directory to keep all runs in. The same call again resumes them, and more rounds
        may be added.
    retry, fresh, workers, memory
        As in `register`, for all rounds.
    progress
        As in `register`; the names of stages follow those of rounds.

    Returns
    -------
    Rounds
        The fields by name, a table, and what failed.

    Raises
    ------
    InputError
        If an argument does not fit; it names the round.
    StoreError
        As in `register`.
    MethodError
        If every round fails.

    Examples
    --------
    >>> import xdreg
    >>> pair = xdreg.datasets.phantom_pair((48, 56), amplitude=2.0)
    >>> rounds = {"r2": pair.moving, "r3": pair.fixed}
    >>> found = register_rounds(pair.fixed, rounds, progress=False)
    >>> list(found), found["r2"].displacement.dims
    (['r2', 'r3'], ('component', 'y', 'x'))
    """
    _check_names(rounds)
    each = {
        "stages": stages,
        "moving_mask": moving_mask,
        "initial": initial,
        "moving_channel": moving_channel,
    }
    for what, given in each.items():
        _check_by_round(given, rounds, what)
    levels = image_levels(fixed, "fixed")
    selections(build_pyramid(levels, "fixed"), channel, "fixed")
    requests = {}
    for name, moving in rounds.items():
        own = {what: _of(given, name) for what, given in each.items()}
        _check_channel(name, moving, channel, own["moving_channel"])
        with _named(name):
            requests[name] = checked(
                fixed,
                moving,
                (channel, own["moving_channel"]),
                (fixed_mask, own["moving_mask"]),
                own["initial"],
                workdir,
                retry,
                fresh=fresh,
                allow_mirror=allow_mirror,
                stages=own["stages"],
                metric=metric,
                block_shape=block_shape,
                overlap=overlap,
                finest_level=finest_level,
                resources=Resources.of(workers, memory),
            )
    directory = WorkDirectory(workdir)
    shared, runs = _claimed(requests, directory, fresh=fresh)
    with directory.lock(), directory.writing():
        shared.check()
        fields, failures = _run_all(runs, progress)
    channels = {name: _of(moving_channel, name) for name in rounds}
    return Rounds(fixed, dict(rounds), fields, failures, channel, channels)


def _claimed(
    requests: Mapping[str, Request], directory: WorkDirectory, *, fresh: bool
) -> tuple[Source, dict[str, Run]]:
    """Claim all work directories; return the fixed image, and the runs by name."""
    first = next(iter(requests.values()))

    def describe() -> dict[str, Any]:
        return describe_fixed(first.fixed)

    with directory.writing():
        directory.claim(describe(), describe, fresh=fresh)
    shared = Source(first.fixed, directory.path, first.plan.limit)
    runs = {}
    for name, request in requests.items():
        place = directory.below(FOLDER, folder_name(name))
        with _named(name):
            runs[name] = request.claimed(place, shared, name)
    return shared, runs


def _run_all(
    runs: Mapping[str, Run], progress: bool | Listener
) -> tuple[dict[str, xr.Dataset], dict[str, XdregError]]:
    """Run all rounds; return the fields, and the errors of those that failed."""
    fields: dict[str, xr.Dataset] = {}
    failures: dict[str, XdregError] = {}
    stopped: list[BaseException] = []
    listener = _noting(progress, stopped) if callable(progress) else progress
    for number, (name, run) in enumerate(runs.items(), start=1):
        _log.info("round %s, %d of %d", name, number, len(runs))
        try:
            fields[name] = run(listener)
        except Interrupted:
            raise
        except XdregError as error:
            if stopped:
                raise
            failures[name] = error
    if not fields:
        texts = "; ".join(f"{name}: {why}" for name, why in failures.items())
        msg = f"no round could be registered. {texts}"
        raise MethodError(msg) from next(iter(failures.values()))
    for name, why in failures.items():
        warn(f"the round {name} failed, the others are done: {why}")
    return fields, failures


def _noting(
    listener: Callable[..., object], raised: list[BaseException]
) -> Callable[..., object]:
    """Return a listener that notes what it raises: that ends all rounds."""

    def call(advance: Any) -> object:
        try:
            return listener(advance)
        except BaseException as error:
            raised.append(error)
            raise

    return call


def folder_name(name: str) -> str:
    """Return the name of a round's folder."""
    return quote(name, safe=" ")


@contextlib.contextmanager
def _named(name: str) -> Iterator[None]:
    """Name the round in an error."""
    try:
        yield
    except XdregError as error:
        error.args = (f"round {name!r}: {error.message}",)
        error.message = error.args[0]
        raise


def is_by_round(given: object) -> bool:
    """Return whether an argument is given by round; images are mappings, too."""
    return isinstance(given, Mapping) and not isinstance(
        given, xr.Dataset | xr.DataTree
    )


def _of(given: Any, name: str) -> Any:
    """Return the value of an argument for a round."""
    return given.get(name) if is_by_round(given) else given


def _check_by_round(given: Any, rounds: Mapping[str, Any], what: str) -> None:
    """Raise if an argument by round names another round."""
    unknown = [n for n in given if n not in rounds] if is_by_round(given) else []
    if unknown:
        msg = f"{what} names the round {unknown[0]!r}; there are {list(rounds)}"
        raise InputError(msg)


def _check_channel(name: str, moving: Any, channel: Channels, own: Channels) -> None:
    """Raise if a round lacks the channel to register."""
    levels = image_levels(moving, f"round {name!r}")
    chosen = counterpart(channel, own, levels[0])
    try:
        selections(build_pyramid(levels, name), chosen, f"round {name!r}")
    except InputError as error:
        remedy = {"moving_channel": {name: 0}} if "c" in levels[0].dims else {}
        raise InputError(error.message, **remedy) from error


def _check_names(rounds: Any) -> None:
    """Raise if rounds are not images by name."""
    if not is_by_round(rounds) or not rounds:
        what = "none" if is_by_round(rounds) else type(rounds).__name__
        msg = (
            "rounds must map names to moving images, for example "
            f"{{'r2': image, 'r3': other}}, got {what}"
        )
        raise InputError(msg)
    for name in rounds:
        text = isinstance(name, str) and name.strip() and name.isprintable()
        if not text or len(name) > LONGEST_NAME:
            msg = (
                f"rounds are named by text of up to {LONGEST_NAME} characters, such as "
                f"'r2', got {name!r:.80}"
            )
            raise InputError(msg)
        if name == FIXED or name.strip(".") == "":
            msg = f"{name!r} names no round, since the fixed image or a folder has it"
            raise InputError(msg + "; rename it")
