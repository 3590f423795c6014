"""Transformations that OME-Zarr stores declare: scenes, documents, fields on their own.

What a store says is read as the steps from its fixed to its moving coordinate system,
matrices and fields of vectors, in the order in which they are applied. None of it is
trusted: it is used, or refused with what it says.

Layouts, all with components in the order of the output's axes:

* a scene, ``ome.scene``, as version 0.6 has it and `xdreg.save` writes it;
* ``ome.coordinateTransformations`` of the root: a transformation on its own, by
  ngff-zarr; in the drafts of RFC-5 with ends given as text, and fields that are arrays
  with systems of their own, components last;
* ``coordinateTransformations`` of a multiscale, by ngff-zarr's
  ``declare_field_transform``, KonfAI, and the drafts;
* a multiscale with an axis of type ``displacement`` that declares nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr

from xdreg.errors import StoreError
from xdreg.fields.ome_vectors import VectorStep, vectors
from xdreg.grid import checked_matrix
from xdreg.stores.ome_metadata import axes_of, the_multiscale

if TYPE_CHECKING:
    from numpy.typing import NDArray

FIELDS = {"displacements": "displacement", "coordinates": "coordinate"}

#: Transformations are nested at most so deep.
MOST_DEEP = 16

#: What metadata of the wrong form raises.
_WRONG_FORM = (
    AttributeError, IndexError, KeyError, OverflowError, RecursionError, TypeError,
    ValueError,
)  # fmt: skip


Step = VectorStep | np.ndarray[Any, Any]


def read_steps(
    address: str, group: zarr.Group, *, inverse: bool = False, name: str | None = None
) -> list[Step]:
    """Return the steps from the fixed to the moving system, or back.

    Parameters
    ----------
    address
        Where the store is, to be named in errors.
    group
        Its root.
    inverse
        From moving to fixed, by what the store has for that.
    name
        Which transformation, by its name, where there are several.

    Returns
    -------
    list of VectorStep or (ndim + 1, ndim + 1) matrix
        In the order of application; at least one is a field.

    Raises
    ------
    StoreError
        If there is none, several, or one that cannot be used.
    """
    attrs: dict[str, Any] = dict(group.attrs)
    try:
        document = _Document.of(address, group, attrs.get("ome"))
        if document is None:
            return _alone(address, group, attrs, inverse=inverse)
        chosen = _chosen(address, document.transformations, name)
        steps = document.steps(chosen, backwards=inverse)
    except StoreError:
        raise
    except _WRONG_FORM as error:
        msg = f"{address}: what it declares of displacements cannot be used: {error!r}"
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


def _chosen(
    address: str, transformations: list[dict[str, Any]], name: str | None
) -> dict[str, Any]:
    """Return the one transformation with a field in it."""
    found = [step for step in transformations if _has_field(step)]
    if name is not None:
        found = [step for step in found if step.get("name") == name]
    if len(found) == 1:
        return found[0]
    names = [str(step.get("name"))[:40] for step in transformations if _has_field(step)]
    if not names:
        msg = (
            f"{address} holds no displacement field; open images with "
            "xdreg.open_ome_zarr"
        )
    else:
        msg = (
            f"{address} holds transformations with displacements named {names[:20]}; "
            f"got name={name!r}; pass the name of one of them"
        )
    raise StoreError(msg)


def _has_field(step: Any, depth: int = 0) -> bool:
    if not isinstance(step, Mapping) or depth > MOST_DEEP:
        return False
    if step.get("type") in FIELDS:
        return True
    parts = step.get("transformations")
    inner = [*parts] if isinstance(parts, list) else []
    inner += [
        step.get(k) for k in ("forward", "inverse", "transform", "transformation")
    ]
    return any(_has_field(part, depth + 1) for part in inner)


@dataclass(frozen=True)
class _Document:
    """Transformations, the coordinate systems they name, and where fields lie."""

    address: str
    group: zarr.Group
    transformations: list[dict[str, Any]]
    systems: dict[str, Any]
    own_levels: tuple[str, ...] = ()

    @classmethod
    def of(cls, address: str, group: zarr.Group, ome: Any) -> _Document | None:
        """Return what a store declares; None where it is at most a field itself."""
        if not isinstance(ome, dict):
            ome = {}
        place: dict[str, Any] = ome
        levels: tuple[str, ...] = ()
        if "scene" in ome:
            place = ome["scene"] if isinstance(ome["scene"], dict) else {}
        elif "multiscales" in ome:
            place = the_multiscale(address, ome)
            levels = tuple(str(d.get("path")) for d in place["datasets"])
        declared = place.get("coordinateTransformations")
        steps = [
            step
            for step in (declared if isinstance(declared, list) else ())
            if isinstance(step, dict)
        ]
        if "multiscales" in ome and not any(_has_field(step) for step in steps):
            return None
        systems = place.get("coordinateSystems")
        known = [s for s in (systems or ()) if isinstance(s, dict)]
        return cls(
            address, group, steps, {str(s.get("name")): s for s in known}, levels
        )

    def steps(
        self, step: Any, *, backwards: bool = False, units: Any = None, depth: int = 0
    ) -> list[Step]:
        """Return a transformation as matrices and fields, nested ones in a row."""
        if not isinstance(step, dict) or depth > MOST_DEEP:
            raise self._refused(step, "expected an object with a 'type'")
        kind = step.get("type")
        units = self._units(step) or units
        inner: dict[str, Any] = {"units": units, "depth": depth + 1}
        if kind == "sequence":
            parts = [
                self.steps(part, backwards=backwards, **inner)
                for part in step["transformations"]
            ]
            return [s for part in (parts[::-1] if backwards else parts) for s in part]
        if kind == "bijection":
            return self.steps(step["inverse" if backwards else "forward"], **inner)
        if kind == "inverseOf":
            wrapped = step.get("transform", step.get("transformation"))
            return self.steps(wrapped, backwards=not backwards, **inner)
        if kind in FIELDS:
            if backwards:
                raise self._refused(
                    step,
                    "this direction is the inverse of displacements, which the store "
                    "does not hold. Open the opposite direction and invert it: "
                    "xdreg.inverse",
                )
            return [self._field(step, FIELDS[kind], units)]
        matrix = self._matrix(step)
        if matrix is None:
            return []
        return [np.linalg.inv(matrix) if backwards else matrix]

    def _matrix(self, step: dict[str, Any]) -> NDArray[np.float64] | None:
        kind = step.get("type")
        if kind == "identity":
            return None
        if kind not in ("scale", "translation", "rotation", "affine", "mapAxis"):
            raise self._refused(
                step,
                "expected displacements, coordinates and transformations that are "
                "affine; resample it with ngff-zarr",
            )
        values = step.get(kind)
        if values is None and isinstance(step.get("path"), str):
            array = self._node(step["path"])
            if not isinstance(array, zarr.Array) or array.size > 64:
                raise self._refused(step, "its path is no array of parameters")
            values = array[...]
        numbers = np.asarray(values, np.float64)
        ndim = len(numbers)
        shape = {"affine": (ndim, ndim + 1), "rotation": (ndim, ndim)}
        if numbers.shape != shape.get(kind, (ndim,)):
            raise self._refused(step, f"its parameters are {numbers.tolist()!r:.80}")
        matrix = np.eye(ndim + 1)
        if kind == "scale":
            matrix[:-1, :-1] = np.diag(numbers)
        elif kind == "translation":
            matrix[:-1, -1] = numbers
        elif kind == "rotation":
            matrix[:-1, :-1] = numbers
        elif kind == "affine":
            matrix[:-1] = numbers
        else:
            matrix[:-1, :-1] = np.eye(ndim)[numbers.astype(int)]
        return checked_matrix(matrix, ndim, f"{self.address}: the {kind}")

    def _units(self, step: dict[str, Any]) -> str | None:
        """Return the unit of a transformation's ends, where it names any."""
        found = set()
        for end in ("input", "output"):
            value = step.get(end)
            name = value.get("name") if isinstance(value, dict) else value
            system = self.systems.get(name) if isinstance(name, str) else None
            axes = system.get("axes") if system is not None else None
            space = [a for a in axes or () if isinstance(a, dict)]
            names = [a.get("name") for a in space]
            if space and names not in (["z", "y", "x"], ["y", "x"]):
                raise self._refused(
                    step,
                    f"the system {name!r} has the axes {names}; expected z, y, x or "
                    "y, x, in this order",
                )
            found |= {a["unit"] for a in space if isinstance(a.get("unit"), str)}
        if len(found) > 1:
            raise self._refused(
                step, f"its ends are in different units {sorted(found)}; use one unit"
            )
        return found.pop() if found else None

    def _field(self, step: dict[str, Any], kind: str, units: Any) -> VectorStep:
        path = step.get("path")
        if not isinstance(path, str) or not path:
            raise self._refused(step, f"{kind}s need the path of their field")
        if step.get("interpolation") not in (None, "linear"):
            raise self._refused(step, "a field is interpolated linearly here")
        if path in self.own_levels:
            return vectors(self.address, self.group, kind, units)
        node = self._node(path)
        return vectors(f"{self.address}/{path}", node, kind, units)

    def _node(self, path: str) -> Any:
        if ".." in path.split("/") or path.startswith("/"):
            msg = f"{self.address}: the field's path {path!r} leaves the store"
            raise StoreError(msg)
        try:
            return self.group[path]
        # Zarr does not say what it raises on metadata of the wrong form.
        except Exception as error:
            msg = f"{self.address} has nothing at {path[:80]!r}, or it is damaged"
            raise StoreError(msg) from error

    def _refused(self, step: Any, why: str) -> StoreError:
        kind = step.get("type") if isinstance(step, dict) else step
        label = step.get("name") if isinstance(step, dict) else None
        named = f" {label!r:.60}" if label else ""
        msg = f"{self.address}: the transformation {kind!r:.60}{named}: {why}"
        return StoreError(msg)


def _alone(
    address: str, group: zarr.Group, attrs: Mapping[str, Any], *, inverse: bool
) -> list[Step]:
    """Return a multiscale that is a field and declares no transformation."""
    declared = the_multiscale(address, attrs["ome"])
    kinds = [axis.get("type") for axis in axes_of(declared)]
    if "displacement" not in kinds:
        msg = (
            f"{address} holds no displacement field; open images with "
            "xdreg.open_ome_zarr"
        )
        raise StoreError(msg)
    if "konfai" in attrs:
        msg = (
            f"{address} was written by KonfAI without declaring a transformation: its "
            "grid is turned, or it is from before version 1.9, with components in "
            "another order. Write it anew, or as .mha"
        )
        raise StoreError(msg)
    if inverse:
        msg = f"{address} holds one field; leave out inverse, or use xdreg.inverse"
        raise StoreError(msg)
    return [vectors(address, group, "displacement", None)]
