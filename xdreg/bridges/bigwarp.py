"""BigWarp's displacement fields in N5: the datasets ``dfield`` and ``invdfield``.

``dfield`` maps fixed points to moving ones: displacements first, then the ``affine`` of
its attributes. ``invdfield`` maps back: its ``affine`` first, then displacements.
Components are ``x, y, z``, along the last axis in C order, which N5 lists first. The
attributes ``spacing``, ``offset`` and the rows of ``affine`` have that order, too. The
offset is the centre of the first voxel. The unit is that of the images in BigWarp;
xdreg stores it as ``unit``.

Source: the wiki of saalfeldlab/template-building, "Hdf5 Deformation fields", and
``N5DisplacementField`` of n5-imglib2. tensorstore reads and writes in blocks.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask.array
import numpy as np
from dask.base import tokenize

from xdreg.bridges.prepare import for_tool, needed
from xdreg.errors import StoreError, UnavailableError, UnreadableError
from xdreg.fields.composition import as_one_field, split_affine
from xdreg.fields.displacement import make_field, ordered_displacement
from xdreg.fields.field import field_grid
from xdreg.grid import SPATIAL_DIMS, Grid, normalise_units
from xdreg.stores.identity import folder_identity
from xdreg.stores.ome_checks import check_shape
from xdreg.stores.outputs import new_store

if TYPE_CHECKING:
    import xarray as xr
    from numpy.typing import NDArray

FORWARD, INVERSE = "dfield", "invdfield"

#: Points of a block per axis, by dimension.
BLOCK = {2: 256, 3: 64}


def _store(folder: Path, **options: Any) -> Any:
    """Open a dataset; its axes are the components, ``x``, ``y``, ``z``."""
    tensorstore = needed("tensorstore", "xdreg[n5]", "N5")
    kvstore = {"driver": "file", "path": f"{folder}/"}
    spec = {"driver": "n5", "kvstore": kvstore} | options
    try:
        return tensorstore.open(spec, create=bool(options)).result()
    except ValueError as error:
        msg = f"{folder} cannot be opened as N5: {error}; name it otherwise"
        raise StoreError(msg) from error


def write(
    field: xr.Dataset,
    path: Path,
    *,
    inverse: xr.Dataset | None = None,
    affine: bool = False,
    step: int = 1,
    units: str | None = None,
    overwrite: bool = False,
) -> None:
    """Write a field, and its inverse; see `xdreg.bridges.write_transform`."""
    needed("tensorstore", "xdreg[n5]", "N5")
    prepared = for_tool(field, units, None, step)
    with new_store(path, overwrite=overwrite) as output:
        output.folder.mkdir()
        _write_json(output.folder / "attributes.json", {"n5": "4.0.0"})
        if not affine:
            _write_dataset(output.folder / FORWARD, prepared)
        else:
            matrix, rest = split_affine(prepared)
            _write_dataset(output.folder / FORWARD, rest, matrix)
        if inverse is not None:
            # Without an affine part, which an inverse would apply first.
            _write_dataset(
                output.folder / INVERSE,
                for_tool(inverse, field_grid(prepared).units, None, step),
            )


def _write_dataset(
    folder: Path, field: xr.Dataset, matrix: NDArray[np.float64] | None = None
) -> None:
    grid = field_grid(field)
    block = [min(BLOCK[grid.ndim], n) for n in grid.shape]
    metadata = {
        "dimensions": [*grid.shape, grid.ndim][::-1],
        "blockSize": [*block, grid.ndim][::-1],
        "dataType": "float32",
        "compression": {"type": "gzip"},
    }
    _store(folder, metadata=metadata)
    document = folder / "attributes.json"
    attributes = json.loads(document.read_text(encoding="utf-8"))
    attributes |= {"spacing": grid.spacing[::-1], "offset": grid.origin[::-1]}
    if grid.units is not None:
        attributes["unit"] = grid.units
    if matrix is not None:
        turned = matrix[:-1, :-1][::-1, ::-1]
        rows = np.concatenate([turned, matrix[:-1, -1:][::-1]], axis=1)
        attributes["affine"] = rows.ravel().tolist()
    _write_json(document, attributes)
    data = dask.array.asarray(ordered_displacement(field, grid).data)
    data = _reversed(data.astype(np.float32).rechunk((grid.ndim, *block)))
    dask.array.store(data, _store(folder), lock=False)


def _reversed(data: Any) -> Any:
    """Reverse the order of the components and of the axes after them."""
    return data[::-1].transpose(0, *range(data.ndim - 1, 0, -1))


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values), encoding="utf-8")


def read(
    path: Path, *, like: Any = None, units: str | None = None, inverse: bool = False
) -> xr.Dataset:
    """Open a field, lazily; see `xdreg.bridges.open_transform`.

    ``path`` is the N5 root, or one of its datasets.
    """
    name = INVERSE if inverse else FORWARD
    folder = path / name
    if not (folder / "attributes.json").is_file():
        msg = (
            f"{path} has no dataset {name!r}; expected BigWarp's layout, with 'dfield' "
            "and, for the inverse, 'invdfield'"
        )
        raise StoreError(msg)
    attributes = _attributes(folder)
    source = _store(folder)
    ndim = source.ndim - 1
    if source.shape[0] != ndim or ndim not in (2, 3):
        msg = (
            f"{folder} has the dimensions {attributes.get('dimensions')}; expected a "
            "vector of 2 or 3 components first, and as many axes after it"
        )
        raise StoreError(msg)
    block = source.chunk_layout.read_chunk.shape
    check_shape(f"the dataset {folder}", source.shape, block, 8)
    spacing = _listed(folder, attributes, "spacing", ndim, [1.0] * ndim)
    offset = _listed(folder, attributes, "offset", ndim, [0.0] * ndim)
    units = units or normalise_units(attributes.get("unit"))
    geometry = source.shape[:0:-1], tuple(spacing[::-1]), tuple(offset[::-1])
    grid = Grid(SPATIAL_DIMS[-ndim:], *geometry, units)
    written = folder_identity(folder, "attributes.json", lambda _: [], ndim + 1)
    key = "quantization_multiplier"
    scales = {key: [attributes.get(key, 1.0)]}
    data = dask.array.map_blocks(
        _read_block,
        chunks=((ndim,), *dask.array.core.normalize_chunks(block[:0:-1], grid.shape)),
        name=f"n5-{tokenize(str(folder.absolute()), written)}",
        dtype=np.float32,
        meta=np.empty((0,) * source.ndim, np.float32),
        source=source,
        folder=folder.absolute(),
        # Stored numbers may be quantised.
        scale=_listed(folder, scales, key, 1)[0],
    )
    moves: list[Any] = [make_field(data, grid)]
    if "affine" in attributes:
        moves.insert(0 if inverse else 1, _matrix(folder, attributes, ndim))
    return as_one_field(moves, like, units, str(folder))


def _read_block(
    source: Any, scale: float, folder: Path, block_info: Any = None
) -> NDArray[np.float32]:
    components, *window = (slice(*ends) for ends in block_info[None]["array-location"])
    try:
        values = np.asarray(source[(components, *window[::-1])])
    except ValueError as error:  # as tensorstore raises for all that fails
        msg = f"a block of {folder} cannot be read: {error}"
        raise UnreadableError(msg) from error
    # tensorstore returns zeros where there is no file.
    if not (folder / "attributes.json").is_file():
        msg = (
            f"{folder} is gone. Was a disk unmounted, or does this machine not see it? "
            "Run the same again once it is there"
        )
        raise UnavailableError(msg)
    return np.asarray(_reversed(values) * scale, np.float32)


def _matrix(folder: Path, attributes: dict[str, Any], ndim: int) -> NDArray[np.float64]:
    rows = _listed(folder, attributes, "affine", ndim * (ndim + 1))
    matrix = np.eye(ndim + 1)
    turned = np.array(rows).reshape(ndim, ndim + 1)
    matrix[:-1, :-1] = turned[::-1, -2::-1]
    matrix[:-1, -1] = turned[::-1, -1]
    return matrix


def _attributes(folder: Path) -> dict[str, Any]:
    try:
        values = json.loads((folder / "attributes.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        msg = f"{folder}/attributes.json cannot be read: {error}"
        raise StoreError(msg) from error
    if not isinstance(values, dict):
        msg = f"{folder}/attributes.json holds {values!r}; expected an object"
        raise StoreError(msg)
    return values


def _listed(
    folder: Path,
    attributes: dict[str, Any],
    key: str,
    count: int,
    default: list[float] | None = None,
) -> list[float]:
    values: Any = attributes.get(key, default)
    try:
        numbers = [float(value) for value in values]
    except (TypeError, ValueError):
        numbers = []
    if len(numbers) != count or not np.isfinite(numbers).all():
        msg = f"{folder}: {key} is {values!r}; expected {count} numbers"
        raise StoreError(msg)
    return numbers
