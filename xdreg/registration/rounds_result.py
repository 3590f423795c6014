"""What comes of several rounds: fields by name, a table, one image of all channels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr

from xdreg.errors import XdregError
from xdreg.fields.aligned import write_aligned
from xdreg.fields.provenance import last_metric, pose_of, stages_of
from xdreg.registration.verdict import verdict

if TYPE_CHECKING:
    import os


@dataclass(frozen=True, eq=False)
class Rounds(Mapping[str, xr.Dataset]):
    """The fields of rounds registered to one fixed image, by name.

    A mapping of the rounds that were registered. `failures` has the others.

    Parameters
    ----------
    fixed
        The fixed image.
    moving
        The moving images by name, as they were given.
    fields
        The fields by name.
    failures
        Errors of the rounds that failed, by name.
    channel, moving_channel
        The channels that were registered, the latter by round.
    """

    fixed: Any
    moving: Mapping[str, Any]
    fields: Mapping[str, xr.Dataset]
    failures: Mapping[str, XdregError]
    channel: Any = None
    moving_channel: Mapping[str, Any] | None = None

    def __getitem__(self, name: str) -> xr.Dataset:
        """Return the field of a round; raise `KeyError` with the error of a failed."""
        if name in self.failures:
            msg = f"the round {name} failed: {self.failures[name]}"
            raise KeyError(msg)
        return self.fields[name]

    def __iter__(self) -> Iterator[str]:
        """Return the names of the rounds that have a field."""
        return iter(self.fields)

    def __len__(self) -> int:
        """Return the number of rounds that have a field."""
        return len(self.fields)

    def __repr__(self) -> str:
        """Return the table as text."""
        return f"xdreg rounds\n{self.table.to_string()}"

    def _repr_html_(self) -> str:
        """Return the table for a notebook."""
        return str(self.table.to_html())

    @property
    def table(self) -> pd.DataFrame:
        """One row per round: verdict, metric, similarity, pose, blocks, time, error."""
        rows = {
            name: {"verdict": "failed", "reasons": str(self.failures[name])}
            if name in self.failures
            else _row(self.fields[name])
            for name in self.moving
        }
        return pd.DataFrame.from_dict(
            rows, orient="index", columns=COLUMNS
        ).rename_axis("round")

    def warp_to(self, path: str | os.PathLike[str], **options: Any) -> None:
        """Write all channels of all rounds on the fixed grid, as one OME-Zarr.

        The fixed image's channels come first. Names are ``fixed:DAPI``, ``r2:GFP``, or
        numbers where channels have none; colours and display limits are kept. Labels
        in the stores of images come along, as ``r2_cells``. A round that failed is left
        out. Chunks are made one by one, and the same call resumes one that was killed.

        Parameters
        ----------
        path
            Directory or URL to write.
        **options
            ``order``, ``fill_value``, ``label_groups``, ``levels``, ``chunks``,
            ``shards``, ``version``, ``name``, ``overwrite``, ``fresh``,
            ``storage_options`` and ``progress``, as in `xdreg.warp_to`.

        Raises
        ------
        InputError, StoreError
            As in `xdreg.warp_to`.
        """
        parts = {name: (field, self.moving[name]) for name, field in self.items()}
        write_aligned(self.fixed, parts, path, **options)


#: Columns of the table.
COLUMNS = (
    "verdict",
    "metric",
    "similarity_before",
    "similarity_after",
    "turn",
    "shift",
    "blocks",
    "not_used",
    "seconds",
    "reasons",
)


def _row(field: xr.Dataset) -> dict[str, Any]:
    """Return the row of a round that has a field."""
    found, stages, pose = verdict(field), stages_of(field), pose_of(field)
    last = stages[-1]
    shift = pose.get("shift")
    return {
        "verdict": found.word,
        "metric": last_metric(field),
        "similarity_before": last.mean("similarity_before"),
        "similarity_after": last.mean("similarity_after"),
        "turn": pose.get("turn", np.nan),
        "shift": np.nan if shift is None else float(np.linalg.norm(shift)),
        "blocks": sum(last.statuses.values()),
        "not_used": sum(last.statuses.values()) - last.statuses.get("success", 0),
        "seconds": sum(float(np.nansum(s.blocks["seconds"])) for s in stages),
        "reasons": "; ".join(found.reasons),
    }
