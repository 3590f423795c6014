"""The run that produced a field: its stages, their blocks, and the images.

The attribute ``xdreg`` holds it as JSON. It may come from any store, so no entry of it
is assumed to exist or to have a type.
"""

from __future__ import annotations

import json
import os
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xdreg.errors import InputError, StoreError
from xdreg.fields.diagnostics import (
    EARLIER,
    HARMLESS,
    SEVERITY,
    of_earlier,
    status_name,
)
from xdreg.fields.field import field_grid
from xdreg.grid import Grid, is_finite
from xdreg.partition import Partition
from xdreg.stores.named_files import (
    absolute,
    is_elsewhere,
    is_local,
    why_not_a_file,
)

if TYPE_CHECKING:
    from xdreg.stores.channels import Selection

#: The images of a registration, as a field names them.
IMAGES = ("fixed", "moving")

#: Kinds of stage that find one transform of the whole image.
LINEAR = ("translation", "rigid", "similarity", "affine")


@dataclass(frozen=True)
class StageRecord:
    """One stage of a run, with the diagnostics of its blocks, each ``(*counts)``.

    ``name`` is the kind of stage, such as ``"local_correlation"``. ``partition`` is
    None if the field does not contain it.
    """

    number: int
    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    blocks: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    partition: Partition | None = None

    @property
    def linear(self) -> bool:
        """Whether the stage found one transform for the whole image."""
        return self.name in LINEAR

    @property
    def counts(self) -> tuple[int, ...]:
        """Number of blocks per axis."""
        return tuple(self.blocks["status"].shape) if "status" in self.blocks else ()

    @property
    def statuses(self) -> dict[str, int]:
        """Number of blocks with each status, the most frequent first."""
        if "status" not in self.blocks:
            return {}
        values, counts = np.unique(self.blocks["status"], return_counts=True)
        order = np.argsort(-counts, kind="stable")
        return {status_name(values[i]): int(counts[i]) for i in order}

    def mean(self, name: str) -> float:
        """Return the mean of a diagnostic over the blocks, NaN if it is unknown."""
        values = self.blocks.get(name)
        if values is None or not np.isfinite(values).any():
            return float("nan")
        return float(np.nanmean(values))


def manifest_of(field: xr.Dataset) -> dict[str, Any]:
    """Return the description of the run that produced a field, or an empty dict."""
    field_grid(field)
    return _json_object(field, "xdreg")


def pose_of(field: xr.Dataset) -> dict[str, Any]:
    """Return the pose that a run started from; empty if there was no pose search."""
    return _json_object(field, "pose")


def _json_object(field: xr.Dataset, name: str) -> dict[str, Any]:
    """Return an attribute of a field that is a JSON object."""
    stored = field.attrs.get(name)
    if stored is None:
        return {}
    try:
        values = json.loads(stored)
    except (TypeError, ValueError, RecursionError) as error:
        values = error
    if not isinstance(values, dict):
        msg = (
            f"the field's attribute {name!r} is damaged, expected an object as JSON: "
            f"{str(stored)[:80]!r}; remove it with field.attrs.pop({name!r})"
        )
        raise StoreError(msg)
    return values


def registered_channels(field: xr.Dataset) -> list[dict[str, Selection]]:
    """Return the registered channel of fixed and of moving, the first of several."""
    stored = manifest_of(field).get("channels")
    found: list[dict[str, Selection]] = [{}, {}]
    if not isinstance(stored, list) or len(stored) != len(found):
        return found
    for place, several in enumerate(stored):
        one = several[0] if isinstance(several, list) and several else None
        chosen = one.get("c") if isinstance(one, dict) else None
        if isinstance(chosen, list) and all(is_finite(v) for v in chosen):
            found[place] = {"c": tuple(float(v) for v in chosen)}
        elif isinstance(chosen, int):
            found[place] = {"c": chosen}
    return found


def selects(registered: Mapping[str, Selection], channels: int) -> bool:
    """Return whether a registered channel exists in an image of ``channels``."""
    chosen: object = registered.get("c")
    if isinstance(chosen, tuple):
        return len(chosen) == channels
    return isinstance(chosen, int) and 0 <= chosen < channels


def field_address(field: xr.Dataset) -> str:
    """Return the address that a field was opened from; empty for one in memory."""
    return str(field.encoding.get("source", ""))


def recorded_image(field: xr.Dataset, name: str, *, trust: bool = False) -> str | None:
    """Return the address of a registered image that the field names, None without one.

    A local image that is not where it was is looked for from the field. The field may
    come from anywhere: an address on another computer is returned only with ``trust``,
    and one that is no stored file never.

    Raises
    ------
    InputError
        If the field names an address that is not to be opened.
    """
    own = field_address(field)
    address = _present(_places(field, name))
    if address is None:
        return None
    why = None if trust else is_elsewhere(address, own)
    remedy: dict[str, Any] = {"trust": True} if why is not None else {}
    why = why or (why_not_a_file(address) if is_local(address) else None)
    if why is not None:
        msg = (
            f"{own or 'the field'} names {address!r} as its {name} image, {why}, which "
            "is not opened unasked; give the fixed and the moving image"
            + (", or trust the field" if remedy else "")
        )
        raise InputError(msg, **remedy)
    return address


def attrs_for(field: xr.Dataset, target: str) -> dict[Any, Any]:
    """Return the attributes of a field that is written to ``target``.

    Local images are named by their absolute path, and by the one from the field, which
    still holds when a folder with both is moved.
    """
    try:
        manifest = manifest_of(field)
        found = {name: _present(_places(field, name)) for name in IMAGES}
    except StoreError:  # damaged, and kept as it is
        return field.attrs
    local = {name: place for name, place in found.items() if place and is_local(place)}
    if not local:
        return field.attrs
    for name, place in local.items():
        manifest[name] |= {"source": place, "relative": _way(target, place)}
    return field.attrs | {"xdreg": json.dumps(manifest)}


def _way(target: str, place: str) -> str | None:
    """Return the path of an image from a field, None if there is none."""
    if not is_local(target):
        return None
    try:
        return Path(os.path.relpath(place, target)).as_posix()
    except ValueError:  # another drive of Windows
        return None


def _places(field: xr.Dataset, name: str) -> list[str]:
    """Return where an image of the field may be; the first is where it was."""
    entry = manifest_of(field).get(name)
    found = entry if isinstance(entry, dict) else {}
    source, relative = found.get("source"), found.get("relative")
    if not isinstance(source, str) or not source:
        return []
    own = field_address(field)
    places = [source]
    if own and is_local(source) and isinstance(relative, str) and relative:
        protocol, slashes, path = own.rpartition("://")
        join = posixpath if slashes else os.path
        moved = join.normpath(join.join(path, relative))
        places.append(f"{protocol}{slashes}{moved}")
    return [absolute(place) for place in places]


def _present(places: Sequence[str]) -> str | None:
    """Return the first local file that exists, else an address on a server."""
    local = [place for place in places if is_local(place)]
    others = [place for place in places if not is_local(place)]
    found = [place for place in local if os.path.exists(place)]  # noqa: PTH110
    return next(iter([*found, *others, *local]), None)


def last_metric(field: xr.Dataset) -> str | None:
    """Return the metric of the last stage, if the field contains it."""
    stages = stages_of(field)
    metric = stages[-1].options.get("metric") if stages else None
    return metric if isinstance(metric, str) else None


def stages_of(field: xr.Dataset) -> tuple[StageRecord, ...]:
    """Return the stages of the run that produced a field, in their order.

    Diagnostics that are not computed yet are left out. A field without provenance, such
    as an inverse, has one stage without a name, or none without diagnostics.
    """
    listed = manifest_of(field).get("stages")
    entries = listed if isinstance(listed, list) else []
    described = [v for v in entries if isinstance(v, dict)]
    if not described:
        blocks = _blocks(field, "")
        return (StageRecord(0, "", blocks=blocks),) if blocks else ()
    records = []
    for number, options in enumerate(described):
        # Older fields have variables of each stage; the last deformable one's have no
        # prefix.
        blocks = (
            _earlier(field, number)
            or _blocks(field, f"stage{number}_")
            or _blocks(field, "")
        )
        rest = {k: v for k, v in options.items() if k not in ("name", "grid")}
        name = str(options.get("name", ""))
        partition = _partition(options, blocks)
        records.append(StageRecord(number, name, rest, blocks, partition))
    return tuple(records)


def last_deformable(field: xr.Dataset) -> StageRecord | None:
    """Return the last deformable stage, else the last stage, if any."""
    stages = stages_of(field)
    deformable = [stage for stage in stages if not stage.linear]
    found = deformable or stages
    return found[-1] if found else None


def _blocks(field: xr.Dataset, prefix: str) -> dict[str, NDArray[Any]]:
    """Return the diagnostics of one stage that are in memory."""
    start = f"{prefix}block_"
    found = {
        str(name).removeprefix(start): np.asarray(variable.values)
        for name, variable in field.data_vars.items()
        if str(name).startswith(start)
        and variable.chunks is None
        and variable.dtype.kind in "biuf"
    }
    return _alike(found, field)


def _earlier(field: xr.Dataset, number: int) -> dict[str, NDArray[Any]]:
    """Return the diagnostics of another stage than the last deformable one."""
    if EARLIER not in field or field[EARLIER].dtype.kind not in "biuf":
        return {}
    return _alike(of_earlier(field[EARLIER], number), field)


def _alike(
    found: dict[str, NDArray[Any]], field: xr.Dataset
) -> dict[str, NDArray[Any]]:
    """Return the diagnostics that fit the statuses and the field."""
    ndim = field["displacement"].ndim - 1
    shape = found["status"].shape if "status" in found else None
    return {k: v for k, v in found.items() if v.shape == shape and v.ndim == ndim}


def _partition(
    options: Mapping[str, Any], blocks: Mapping[str, NDArray[Any]]
) -> Partition | None:
    """Return the partition of a stage, if its options fit its diagnostics."""
    try:
        grid = Grid.from_dict(options["grid"])
        shape, overlap, step = (
            tuple(int(v) for v in options[name])
            for name in ("block_shape", "overlap", "field_step")
        )
        partition = Partition(grid, shape, overlap, step)
        fits = partition.counts == blocks["status"].shape
    except (InputError, KeyError, TypeError, ValueError, ArithmeticError):
        return None
    return partition if fits else None


def worst_blocks(stage: StageRecord, count: int = 10) -> list[tuple[int, ...]]:
    """Return the indices of a stage's worst blocks, the worst first.

    Failed blocks come first, by severity; then successful ones, those with the lowest
    final similarity first. Blocks with nothing to register are left out.
    """
    if "status" not in stage.blocks:
        return []
    status = stage.blocks["status"]
    rank = np.full(status.shape, len(SEVERITY), float)
    for place, severe in enumerate(SEVERITY):
        rank[status == severe] = place
    similar = stage.blocks.get("similarity_after", np.zeros(status.shape))
    order = np.lexsort((np.nan_to_num(similar, nan=-np.inf).ravel(), rank.ravel()))
    chosen = [i for i in order if status.ravel()[i] not in HARMLESS][:count]
    return [tuple(int(v) for v in np.unravel_index(i, status.shape)) for i in chosen]
