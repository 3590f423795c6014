"""Names of the regions of an atlas: tables, and the files of BrainGlobe's packages."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from xdreg.errors import InputError, StoreError
from xdreg.stores.paths import as_address, local_path

#: Columns that may hold the labels.
LABEL_COLUMNS = ("id", "label", "index")


def region_names(names: Any) -> pd.DataFrame:
    """Return what is known of regions, one row for each, by their labels.

    Parameters
    ----------
    names
        A table with a column ``id``, ``label`` or ``index``, and others such as
        ``name``; the path of one as CSV, or as a JSON list of objects, such as
        ``structures.csv`` and ``structures.json`` of BrainGlobe; or a dict from labels
        to names. None for no names.

    Raises
    ------
    InputError, StoreError
        If there is no such column, a label occurs twice, or a file cannot be read.
    """
    if names is None:
        return pd.DataFrame(index=pd.Index([], dtype="int64", name="label"))
    what = "names"
    if isinstance(names, str | Path):
        what, names = str(names), _read(local_path(as_address(names)))
    elif isinstance(names, Mapping):
        names = pd.DataFrame({"id": list(names), "name": list(names.values())})
    if not isinstance(names, pd.DataFrame):
        msg = (
            "names must be a table, a dict from labels to names, or the path of a CSV "
            f"or JSON file, got {type(names).__name__}"
        )
        raise InputError(msg)
    column = next((c for c in LABEL_COLUMNS if c in names), None)
    if column is None:
        msg = (
            f"{what} has the columns {list(names.columns)}; expected one of "
            f"{', '.join(LABEL_COLUMNS)} with the labels"
        )
        raise InputError(msg)
    try:
        labels = pd.Index(names[column].astype("int64"), name="label")
    except (TypeError, ValueError) as error:
        msg = f"{what}: column {column!r} does not hold whole numbers: {error}"
        raise InputError(msg) from error
    twice = labels[labels.duplicated()]
    if len(twice):
        msg = f"{what} has several rows for label {twice[0]}; keep one"
        raise InputError(msg)
    return names.drop(columns=column).set_index(labels)


def _read(path: Path) -> pd.DataFrame:
    try:
        if path.suffix.lower() == ".json":
            return pd.DataFrame(json.loads(path.read_text(encoding="utf-8-sig")))
        return pd.read_csv(path, encoding="utf-8-sig")
    except (OSError, ValueError, TypeError, AttributeError) as error:
        msg = f"{path} cannot be read as a table of regions: {error}"
        raise StoreError(msg) from error
