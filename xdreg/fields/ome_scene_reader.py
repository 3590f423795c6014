"""Transformations with displacement fields that OME-Zarr 0.6 stores declare (RFC-5).

A transformation becomes a list of steps from the fixed to the moving coordinate system:
matrices and fields of vectors, in the order of application. It is declared by

* a scene, in ``ome.scene``, as `xdreg.save` writes it;
* the root itself, in ``ome``, as ngff-zarr writes a transformation on its own;
* a multiscale field, as ngff-zarr's ``declare_field_transform`` and KonfAI write it.

A multiscale with an axis of type ``displacement`` may also declare nothing.

Metadata may come from anywhere: what cannot be used is refused with its value.
ngff-zarr's own reader is not used. It refuses axes with a ``longName`` and matrices
kept in arrays, and opens all images of a scene.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from xdreg.errors import StoreError
from xdreg.fields.ome_vectors import VectorStep, vectors
from xdreg.grid import checked_matrix
from xdreg.stores.nodes import open_named
from xdreg.stores.ome_metadata import axes_of, multiscale_of

#: Type of a field's axis of components, by type of the transformation.
COMPONENTS = {"displacements": "displacement", "coordinates": "coordinate"}

#: Most numbers that a matrix in an array may have.
MOST_NUMBERS = 64


Step = VectorStep | np.ndarray[Any, Any]


def read_steps(
    address: str, group: zarr.Group, *, inverse: bool = False, name: str | None = None
) -> list[Step]:
    """Return the steps from the fixed to the moving system, or back.

    They are in the order of application, and at least one is a field. ``name`` chooses
    one of several transformations.
    """
    stored = group.attrs.get("ome")
    ome: dict[str, Any] = stored if isinstance(stored, dict) else {}
    owner: Any = ome
    if "scene" in ome:
        owner = ome["scene"]
    elif "multiscales" in ome:
        owner = multiscale_of(address, ome)
    try:
        declared = owner.get("coordinateTransformations") or ()
        found = [entry for entry in declared if _has_field(entry)]
        if not found and "datasets" in owner:
            return [_undeclared_field(address, group, owner, inverse=inverse)]
        entry = _chosen(address, found, name)
        steps = _Reader(address, group, owner).steps(entry, backwards=inverse)
    except StoreError:
        raise
    # Malformed metadata raises almost anything, here and in Zarr.
    except Exception as error:
        msg = f"{address}: its displacement metadata cannot be used: {error!r}"
        raise StoreError(msg) from error
    dims = {s.grid.dims for s in steps if isinstance(s, VectorStep)}
    sizes = {len(s) - 1 for s in steps if not isinstance(s, VectorStep)}
    if len(dims) != 1 or sizes - {len(next(iter(dims)))}:
        msg = (
            f"{address}: the displacements have the dimensions {sorted(dims)} and the "
            f"matrices {sorted(sizes)}; expected one and the same"
        )
        raise StoreError(msg)
    return steps


def _has_field(value: Any) -> bool:
    """Return whether a transformation is a field or contains one."""
    if isinstance(value, list):
        return any(map(_has_field, value))
    return isinstance(value, dict) and (
        value.get("type") in COMPONENTS or any(map(_has_field, value.values()))
    )


def _chosen(address: str, found: list[Any], name: str | None) -> dict[str, Any]:
    """Return the one transformation with a field, of the given name if any."""
    if not found:
        raise _no_field(address)
    matching = [entry for entry in found if name is None or entry.get("name") == name]
    if len(matching) != 1:
        names = [str(entry.get("name"))[:40] for entry in found[:20]]
        msg = (
            f"{address} holds transformations with displacements named {names}; got "
            f"name={name!r}; pass the name of one of them"
        )
        raise StoreError(msg)
    return dict(matching[0])


def _no_field(address: str) -> StoreError:
    return StoreError(
        f"{address} holds no displacement field; open images with xdreg.open_ome_zarr"
    )


def _undeclared_field(
    address: str, group: zarr.Group, multiscale: dict[str, Any], *, inverse: bool
) -> VectorStep:
    """Return a multiscale that is a field and declares no transformation."""
    if "displacement" not in [axis.get("type") for axis in axes_of(multiscale)]:
        raise _no_field(address)
    if "konfai" in group.attrs:
        msg = (
            f"{address} was written by KonfAI without declaring a transformation: its "
            "grid is turned, or it is from before version 1.9, with components in "
            "another order. Write it again, or as .mha"
        )
        raise StoreError(msg)
    if inverse:
        msg = f"{address} holds one field; leave out inverse, or use xdreg.inverse"
        raise StoreError(msg)
    return vectors(address, group, "displacement", None)


@dataclass(frozen=True)
class _Reader:
    """A store and the metadata in it that declares transformations (``owner``)."""

    address: str
    group: zarr.Group
    owner: dict[str, Any]

    def steps(
        self, entry: dict[str, Any], *, backwards: bool = False, units: Any = None
    ) -> list[Step]:
        """Return a transformation as matrices and fields, in the order of use.

        ``units`` are those of the transformation around it.
        """
        kind, units = entry["type"], self._units(entry) or units
        if kind == "inverseOf":
            what = "it has a transformation of type 'inverseOf'"
            raise self._draft(what)
        if kind == "sequence":
            parts = [
                self.steps(part, backwards=backwards, units=units)
                for part in entry["transformations"]
            ]
            return [s for part in (parts[::-1] if backwards else parts) for s in part]
        if kind == "bijection":
            return self.steps(entry["inverse" if backwards else "forward"], units=units)
        if kind == "identity":
            return []
        if kind not in COMPONENTS:
            matrix = self._matrix(entry)
            return [np.linalg.inv(matrix) if backwards else matrix]
        if backwards:
            raise self._refused(
                entry,
                "this direction is the inverse of displacements, which the store "
                "does not hold. Open the opposite direction and invert it: "
                "xdreg.inverse",
            )
        return [self._field(entry, units)]

    def _units(self, entry: dict[str, Any]) -> str | None:
        """Return the unit of a transformation's ends, if they name any."""
        known = self.owner.get("coordinateSystems") or ()
        systems = {system["name"]: system["axes"] for system in known}
        found = set()
        for end in (entry.get("input"), entry.get("output")):
            if isinstance(end, str):
                what = f"a transformation's end is the text {end!r:.60}"
                raise self._draft(what)
            # With a path, the system is that of an image.
            if end is None or end.get("path") or end.get("name") not in systems:
                continue
            axes = systems[end["name"]]
            names = [axis["name"] for axis in axes]
            if names not in (["z", "y", "x"], ["y", "x"]):
                raise self._refused(
                    entry,
                    f"the system {end['name']!r} has the axes {names}; expected z, y, "
                    "x or y, x, in this order",
                )
            found |= {axis["unit"] for axis in axes if axis.get("unit")}
        if len(found) > 1:
            raise self._refused(
                entry, f"its ends are in different units {sorted(found)}; use one unit"
            )
        return found.pop() if found else None

    def _matrix(self, entry: dict[str, Any]) -> NDArray[np.float64]:
        """Return an affine transformation as a homogeneous matrix."""
        kind = entry["type"]
        if kind not in ("scale", "translation", "rotation", "affine", "mapAxis"):
            raise self._refused(
                entry,
                "expected displacements, coordinates and transformations that are "
                "affine; resample it with ngff-zarr",
            )
        numbers = entry.get(kind)
        if numbers is None:
            array = self._node(entry)
            if not isinstance(array, zarr.Array) or array.size > MOST_NUMBERS:
                raise self._refused(entry, "its path is no array of parameters")
            numbers = array[...]
        values = np.asarray(numbers, np.float64)
        ndim = len(values)
        shapes = {"affine": (ndim, ndim + 1), "rotation": (ndim, ndim)}
        if values.shape != shapes.get(kind, (ndim,)):
            raise self._refused(entry, f"its parameters are {values.tolist()!r:.80}")
        matrix = np.eye(ndim + 1)
        if kind == "affine":
            matrix[:-1] = values
        elif kind == "translation":
            matrix[:-1, -1] = values
        elif kind == "rotation":
            matrix[:-1, :-1] = values
        elif kind == "scale":
            matrix[:-1, :-1] = np.diag(values)
        else:
            matrix[:-1, :-1] = np.eye(ndim)[values.astype(int)]
        return checked_matrix(matrix, ndim, f"{self.address}: the {kind}")

    def _field(self, entry: dict[str, Any], units: Any) -> VectorStep:
        if entry.get("interpolation") not in (None, "linear"):
            raise self._refused(entry, "a field is interpolated linearly here")
        component, path = COMPONENTS[entry["type"]], entry.get("path")
        if path in [level["path"] for level in self.owner.get("datasets", ())]:
            return vectors(self.address, self.group, component, units)
        node = self._node(entry)
        if not isinstance(node, zarr.Group):
            what = f"the field {path!r:.60} is an array, not a multiscale"
            raise self._draft(what)
        return vectors(f"{self.address}/{path}", node, component, units)

    def _node(self, entry: dict[str, Any]) -> Any:
        """Return the group or array that a transformation names by its path."""
        path = entry.get("path")
        if not isinstance(path, str) or not path:
            raise self._refused(entry, "expected the path of its field")
        return open_named(self.address, self.group, path)

    def _refused(self, entry: dict[str, Any], why: str) -> StoreError:
        name = f" {entry['name']!r:.60}" if entry.get("name") else ""
        kind = f"the transformation {entry['type']!r:.60}{name}"
        return StoreError(f"{self.address}: {kind}: {why}")

    def _draft(self, what: str) -> StoreError:
        ome: Any = self.group.attrs["ome"]
        version = str(ome.get("version", "unknown"))[:20]
        return StoreError(
            f"{self.address}: {what}, as in the drafts of RFC-5 (its version is "
            f"{version!r}); expected the layout of OME-Zarr 0.6. Write the field again "
            "with a newer version of the tool that made it, or with ngff-zarr"
        )
