"""The ``.dreg`` accessors of xarray objects: each method calls a public function.

Images are DataTrees and DataArrays, fields are Datasets. A method has the parameters,
types and docstring of its function, without the first argument.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable
from types import MethodType
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, TypeVar

import xarray as xr

P = ParamSpec("P")
R = TypeVar("R")


class _Lazy:
    """A module of the package, imported when it is first used."""

    def __init__(self, name: str) -> None:
        self._name = f"xdreg.{name}"

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module(self._name), name)


if TYPE_CHECKING:
    import pandas as pd

    from xdreg import bridges as _bridges
    from xdreg.fields import composition as _composition
    from xdreg.fields import inverse as _inverse
    from xdreg.fields import measures as _measures
    from xdreg.fields import points as _points
    from xdreg.fields import provenance as _provenance
    from xdreg.fields import regions as _regions
    from xdreg.fields import store as _store
    from xdreg.fields import tables as _tables
    from xdreg.fields import warp as _warp
    from xdreg.fields import warp_to as _warp_to
    from xdreg.registration import register as _register
    from xdreg.registration import rounds as _rounds
    from xdreg.registration import stabilize as _stabilize
    from xdreg.registration import verdict as _verdict
    from xdreg.registration.verdict import Verdict
    from xdreg.stores import itk_images as _itk_images
    from xdreg.stores import ome_writer as _ome_writer
    from xdreg.stores import pyramid as _pyramid
    from xdreg.views import napari_plugin as _napari_plugin
    from xdreg.views import napari_transform as _napari_transform
    from xdreg.views import plot as _plot
    from xdreg.views import report as _report
    from xdreg.views import summary as _summary

    class Field(xr.Dataset):  # type: ignore[no-untyped-call]
        """A displacement field, as type checkers see it."""

        dreg: FieldAccessor

    class Image(xr.DataArray):  # type: ignore[no-untyped-call]
        """An image, as type checkers see it."""

        dreg: ImageAccessor

    class ImageTree(xr.DataTree):  # type: ignore[no-untyped-call]
        """An image with its levels, as type checkers see it."""

        dreg: ImageAccessor

else:
    _bridges = _Lazy("bridges")
    _composition = _Lazy("fields.composition")
    _inverse = _Lazy("fields.inverse")
    _measures = _Lazy("fields.measures")
    _points = _Lazy("fields.points")
    _provenance = _Lazy("fields.provenance")
    _regions = _Lazy("fields.regions")
    _tables = _Lazy("fields.tables")
    _store = _Lazy("fields.store")
    _warp = _Lazy("fields.warp")
    _warp_to = _Lazy("fields.warp_to")
    _register = _Lazy("registration.register")
    _rounds = _Lazy("registration.rounds")
    _stabilize = _Lazy("registration.stabilize")
    _verdict = _Lazy("registration.verdict")
    _itk_images = _Lazy("stores.itk_images")
    _ome_writer = _Lazy("stores.ome_writer")
    _pyramid = _Lazy("stores.pyramid")
    _napari_plugin = _Lazy("views.napari_plugin")
    _napari_transform = _Lazy("views.napari_transform")
    _plot = _Lazy("views.plot")
    _report = _Lazy("views.report")
    _summary = _Lazy("views.summary")


def to_field(function: Callable[P, xr.Dataset]) -> Callable[P, Field]:
    """Return a function as one whose result has `FieldAccessor`, for type checkers."""
    return function  # type: ignore[return-value]


def to_image(function: Callable[P, xr.DataArray]) -> Callable[P, Image]:
    """Return a function as one whose result has `ImageAccessor`, for type checkers."""
    return function  # type: ignore[return-value]


def to_tree(function: Callable[P, xr.DataTree]) -> Callable[P, ImageTree]:
    """Return a function as one whose result has `ImageAccessor`, for type checkers."""
    return function  # type: ignore[return-value]


class _Method(Generic[P, R]):
    """A method that passes the object of its accessor to a function, as the first.

    Parameters
    ----------
    load
        Returns the function, so that it is imported on the first use.
    of
        Attribute of the accessor that is passed.
    """

    def __init__(
        self, load: Callable[[], Callable[Concatenate[Any, P], R]], of: str = "_data"
    ) -> None:
        self._load, self._of = load, of

    def __get__(self, instance: Any, owner: type | None = None) -> Callable[P, R]:
        function = self._load()

        @functools.wraps(function)
        def method(accessor: Any, *args: P.args, **options: P.kwargs) -> R:
            return function(getattr(accessor, self._of), *args, **options)

        signature = inspect.signature(function)
        first, *others = signature.parameters.values()
        if first.kind is first.VAR_POSITIONAL:  # of which the object is one
            others = [first, *others]
        own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
        known: Any = method
        known.__signature__ = signature.replace(parameters=[own, *others])
        return known if instance is None else MethodType(known, instance)  # type: ignore[return-value]


class ImageAccessor:
    """Methods of an image, as ``image.dreg``."""

    def __init__(self, image: xr.DataArray | xr.DataTree) -> None:
        self._data = image

    register = _Method(lambda: to_field(_register.register))
    register_rounds = _Method(lambda: _rounds.register_rounds)
    stabilize = _Method(lambda: to_field(_stabilize.stabilize))
    plan = _Method(lambda: _register.plan)
    to_itk_image = _Method(lambda: _itk_images.to_itk_image, of="_finest")
    to_ome_zarr = _Method(lambda: _ome_writer.write_ome_zarr, of="_finest")

    @property
    def _finest(self) -> xr.DataArray:
        return _pyramid.image_levels(self._data, "image")[0]

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(_missing(name, self, FieldAccessor, "displacement fields"))

    def __repr__(self) -> str:
        """Return a summary of the image as text."""
        return _summary.image_summary(self._data)


class FieldAccessor:
    """Methods and properties of a displacement field, as ``field.dreg``."""

    def __init__(self, field: xr.Dataset) -> None:
        self._data = field

    warp = _Method(lambda: to_image(_warp.warp))
    warp_to = _Method(lambda: _warp_to.warp_to)
    transform_points = _Method(lambda: _points.transform_points)
    point_regions = _Method(lambda: _regions.point_regions)
    region_volumes = _Method(lambda: _regions.region_volumes)
    transform_layer = _Method(lambda: _napari_transform.transform_layer)
    inverse = _Method(lambda: to_field(_inverse.inverse))
    compose = _Method(lambda: to_field(_composition.compose))
    jacobian_determinant = _Method(lambda: _measures.jacobian_determinant)
    folded_share = _Method(lambda: _measures.folded_share)
    statistics = _Method(lambda: _measures.statistics)
    consistency = _Method(lambda: _measures.consistency)
    to_grid = _Method(lambda: _bridges.to_grid)
    to_itk_transform = _Method(lambda: _bridges.to_itk_transform)
    to_file = _Method(lambda: _bridges.write_transform)
    to_ome_zarr = _Method(lambda: _store.save_field)
    plot = _Method(lambda: _plot.overview)
    report = _Method(lambda: _report.report)
    view = _Method(lambda: _napari_plugin.view)

    @property
    def verdict(self) -> Verdict:
        """Whether the registration can be trusted, with reasons."""
        return _verdict.verdict(self._data)

    @property
    def pose(self) -> dict[str, Any] | None:
        """The pose that was searched: turn, shift, scale, score and margin."""
        return _provenance.pose_of(self._data) or None

    @property
    def metric(self) -> str | None:
        """The metric of the last stage, and why, if it was chosen."""
        return self._data.attrs.get("metric") or _provenance.last_metric(self._data)

    @property
    def landmarks(self) -> pd.DataFrame | None:
        """The landmarks of a constraint: how far off, which are left out and why."""
        return _tables.landmark_table(self._data)

    @property
    def stages(self) -> pd.DataFrame:
        """The stages: metric, level, blocks by status, mean similarity."""
        return _tables.stage_table(self._data)

    @property
    def blocks(self) -> pd.DataFrame:
        """The blocks of all stages: status and measures."""
        return _tables.block_table(self._data)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(_missing(name, self, ImageAccessor, "images"))

    def __repr__(self) -> str:
        """Return a summary of the field as text."""
        return _summary.summary_text(self._data)

    def _repr_html_(self) -> str:
        """Return a summary of the field for a notebook."""
        return _summary.summary_html(self._data)


def _missing(name: str, accessor: Any, other: type, kind: str) -> str:
    """Return what to say of a name that an accessor lacks, but the other may have."""
    data = accessor._data
    if name.startswith("_") or name not in vars(other):
        return f"{type(accessor).__name__} has no attribute {name!r}"
    text = f"{name} is a method of {kind}, and this is a {type(data).__name__}"
    if not isinstance(data, xr.Dataset):
        return f"{text}; fields come from image.dreg.register or xdreg.open_field"
    names = [str(n) for n, v in data.data_vars.items() if {"y", "x"} <= set(v.dims)]
    if "displacement" in names and "component" in data["displacement"].dims:
        return f"{text} with a displacement field; take the fixed image"
    text += f" with the variables {list(map(str, data.data_vars))}"
    image = names[0] if names else "name"
    return f"{text}; take one that is an image: dataset[{image!r}].dreg.{name}(…)"


def install() -> None:
    """Register the accessors with xarray."""
    xr.register_dataarray_accessor("dreg")(ImageAccessor)  # type: ignore[no-untyped-call]
    xr.register_datatree_accessor("dreg")(ImageAccessor)  # type: ignore[no-untyped-call]
    xr.register_dataset_accessor("dreg")(FieldAccessor)  # type: ignore[no-untyped-call]
