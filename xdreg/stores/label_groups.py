"""Label images that lie next to an image, in the group ``labels`` of its store."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import xarray as xr
import zarr

from xdreg.errors import StoreError, warn
from xdreg.stores.nodes import open_group, open_named
from xdreg.stores.ome_zarr import open_ome_zarr
from xdreg.stores.ownership import WARPED

#: Group with the label images of an image.
LABELS = "labels"

#: What describes a label image: colours and properties of labels.
_LOOK = "image-label"

#: Names of folders, and nothing above them.
_NAME = re.compile(r"(?!\.{1,2}$)[^/\\]+")


def label_images(image: xr.DataArray) -> dict[str, tuple[xr.DataTree, dict[str, Any]]]:
    """Return the label images of the store that an image is from, by name.

    Each with its ``image-label``: colours and properties. None of an image in memory.
    """
    address = image.attrs.get("source")
    if not isinstance(address, str):
        return {}
    try:
        group = open_group(address, None)
        names = _ome(open_named(address, group, LABELS)).get(LABELS)
    except StoreError:  # most images have none
        return {}
    found = {}
    for name in names if isinstance(names, list) else ():
        try:
            if not _NAME.fullmatch(str(name)):
                msg = "that is no name of a folder"
                raise StoreError(msg)
            node: Any = open_named(address, group, f"{LABELS}/{name}")
            tree = open_ome_zarr(node)
        except StoreError as error:
            warn(f"the labels {name!r} of {address} are left out: {error}")
            continue
        look = _ome(node).get(_LOOK)
        found[str(name)] = tree, dict(look) if isinstance(look, Mapping) else {}
    return found


def _ome(group: Any) -> dict[str, Any]:
    attributes = dict(group.attrs)
    ome = attributes.get("ome", attributes)
    return ome if isinstance(ome, dict) else {}


def write_label_documents(
    folder: Path, looks: Mapping[str, Mapping[str, Any]], version: str
) -> None:
    """Write what makes images below ``labels`` in a store the labels of its image."""
    group = zarr.open_group(folder / LABELS, zarr_format=2 if version == "0.4" else 3)
    _update(group, {LABELS: sorted(looks)}, version)
    group.attrs[WARPED] = sorted(looks)
    for name, look in looks.items():
        source = {"source": {"image": "../../"}}
        one = zarr.open_group(folder / LABELS / name, mode="r+")
        _update(one, {_LOOK: {**look, **source}}, version)


def _update(group: zarr.Group, values: Mapping[str, Any], version: str) -> None:
    if version == "0.4":
        group.attrs.update(values)
    else:
        known: Any = group.attrs.get("ome", {"version": version})
        group.attrs["ome"] = {**known, **values}
