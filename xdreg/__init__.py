"""Registration of images too large for memory, as map-reduce over blocks, in xarray.

>>> import xdreg
>>> pair = xdreg.datasets.phantom_pair((48, 56), amplitude=2.0)
>>> field = pair.fixed.dreg.register(pair.moving, progress=False)
>>> moved = field.dreg.warp(pair.moving)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, overload

from xdreg import accessor as _accessor
from xdreg.errors import (
    InputError,
    MethodCrash,
    MethodError,
    MethodTimeout,
    StoreError,
    XdregError,
)
from xdreg.grid import Grid
from xdreg.stages import (
    Affine,
    BlockReduction,
    BSpline,
    Consensus,
    Custom,
    LocalCorrelation,
    RegistrationMethod,
    Rigid,
    Similarity,
    Translation,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xdreg import bridges, datasets, itk_dreg, plot
    from xdreg.bridges import (
        from_itk_transform as _from_itk_transform,
    )
    from xdreg.bridges import (
        open_transform as _open_transform,
    )
    from xdreg.bridges import (
        write_transform,
    )
    from xdreg.fields.accuracy import LandmarkErrors, label_overlaps, landmark_errors
    from xdreg.fields.composition import compose as _compose
    from xdreg.fields.diagnostics import status_counts
    from xdreg.fields.displacement import identity as _identity
    from xdreg.fields.displacement import make_field as _make_field
    from xdreg.fields.inverse import inverse as _inverse
    from xdreg.fields.landmarks import LandmarkTransform, landmarks
    from xdreg.fields.measures import (
        consistency,
        folded_share,
        jacobian_determinant,
        statistics,
    )
    from xdreg.fields.points import transform_points
    from xdreg.fields.regions import point_regions, region_volumes
    from xdreg.fields.store import open_field as _open_field
    from xdreg.fields.store import save
    from xdreg.fields.warp import warp as _warp
    from xdreg.fields.warp_to import warp_to
    from xdreg.numerics.consensus import find_consensus
    from xdreg.numerics.metrics import dice, target_registration_error
    from xdreg.partition import Partition
    from xdreg.registration.plan import Plan
    from xdreg.registration.planned_stage import PlannedStage
    from xdreg.registration.progress import Advance
    from xdreg.registration.reductions import BlockResult
    from xdreg.registration.register import plan
    from xdreg.registration.register import register as _register
    from xdreg.registration.rounds import register_rounds
    from xdreg.registration.rounds_result import Rounds
    from xdreg.registration.stabilize import stabilize as _stabilize
    from xdreg.stores.image_files import open_image as _open_image
    from xdreg.stores.itk_images import from_itk_image as _from_itk_image
    from xdreg.stores.itk_images import to_itk_image
    from xdreg.stores.memory_images import make_image as _make_image
    from xdreg.stores.pyramid import image_levels
    from xdreg.views.napari_plugin import open_viewer
    from xdreg.views.napari_transform import transform_layer
    from xdreg.views.report import report
    from xdreg.views.rounds_report import report_rounds
    from xdreg.views.scene import make_scene

    # Results that have `dreg`, so that its methods are checked.
    compose = _accessor.to_field(_compose)
    from_itk_image = _accessor.to_image(_from_itk_image)
    from_itk_transform = _accessor.to_field(_from_itk_transform)
    identity = _accessor.to_field(_identity)
    inverse = _accessor.to_field(_inverse)
    make_image = _accessor.to_image(_make_image)  # type: ignore[arg-type]
    make_field = _accessor.to_field(_make_field)
    open_field = _accessor.to_field(_open_field)
    open_image = _accessor.to_image(_open_image)  # type: ignore[arg-type]
    open_transform = _accessor.to_field(_open_transform)
    register = _accessor.to_field(_register)
    stabilize = _accessor.to_field(_stabilize)
    warp = _accessor.to_image(_warp)

    @overload
    def open_ome_zarr(
        store: Any,
        *,
        level: None = None,
        coordinate_system: str | None = None,
        storage_options: Mapping[str, Any] | None = None,
    ) -> _accessor.ImageTree: ...
    @overload
    def open_ome_zarr(
        store: Any,
        *,
        level: int,
        coordinate_system: str | None = None,
        storage_options: Mapping[str, Any] | None = None,
    ) -> _accessor.Image: ...
    def open_ome_zarr(*_: Any, **__: Any) -> Any: ...  # noqa: D103

    __version__: str

#: Public names by the module that defines them; each loads on its first use.
_LAZY = {
    "bridges": ("from_itk_transform", "open_transform", "write_transform"),
    "fields.accuracy": ("LandmarkErrors", "label_overlaps", "landmark_errors"),
    "fields.composition": ("compose",),
    "fields.diagnostics": ("status_counts",),
    "fields.displacement": ("identity", "make_field"),
    "fields.inverse": ("inverse",),
    "fields.landmarks": ("LandmarkTransform", "landmarks"),
    "fields.measures": (
        "consistency",
        "folded_share",
        "jacobian_determinant",
        "statistics",
    ),
    "fields.points": ("transform_points",),
    "fields.regions": ("point_regions", "region_volumes"),
    "fields.store": ("open_field", "save"),
    "fields.warp": ("warp",),
    "fields.warp_to": ("warp_to",),
    "numerics.metrics": ("dice", "target_registration_error"),
    "partition": ("Partition",),
    "numerics.consensus": ("find_consensus",),
    "registration.planned_stage": ("PlannedStage",),
    "registration.plan": ("Plan",),
    "registration.progress": ("Advance",),
    "registration.reductions": ("BlockResult",),
    "registration.register": ("plan", "register"),
    "registration.rounds": ("register_rounds",),
    "registration.rounds_result": ("Rounds",),
    "registration.stabilize": ("stabilize",),
    "stores.image_files": ("open_image",),
    "stores.itk_images": ("from_itk_image", "to_itk_image"),
    "stores.memory_images": ("make_image",),
    "stores.ome_zarr": ("open_ome_zarr",),
    "stores.pyramid": ("image_levels",),
    "views.napari_plugin": ("open_viewer",),
    "views.napari_transform": ("transform_layer",),
    "views.report": ("report",),
    "views.rounds_report": ("report_rounds",),
    "views.scene": ("make_scene",),
}
_MODULE_OF = {name: module for module, names in _LAZY.items() for name in names}

__all__ = [
    "Advance",
    "Affine",
    "BSpline",
    "BlockReduction",
    "BlockResult",
    "Consensus",
    "Custom",
    "Grid",
    "InputError",
    "LandmarkErrors",
    "LandmarkTransform",
    "LocalCorrelation",
    "MethodCrash",
    "MethodError",
    "MethodTimeout",
    "Partition",
    "Plan",
    "PlannedStage",
    "RegistrationMethod",
    "Rigid",
    "Rounds",
    "Similarity",
    "StoreError",
    "Translation",
    "XdregError",
    "__version__",
    "bridges",
    "compose",
    "consistency",
    "datasets",
    "dice",
    "find_consensus",
    "folded_share",
    "from_itk_image",
    "from_itk_transform",
    "identity",
    "image_levels",
    "inverse",
    "itk_dreg",
    "jacobian_determinant",
    "label_overlaps",
    "landmark_errors",
    "landmarks",
    "make_field",
    "make_image",
    "make_scene",
    "open_field",
    "open_image",
    "open_ome_zarr",
    "open_transform",
    "open_viewer",
    "plan",
    "plot",
    "point_regions",
    "region_volumes",
    "register",
    "register_rounds",
    "report",
    "report_rounds",
    "save",
    "stabilize",
    "statistics",
    "status_counts",
    "target_registration_error",
    "to_itk_image",
    "transform_layer",
    "transform_points",
    "warp",
    "warp_to",
    "write_transform",
]

_accessor.install()


def __getattr__(name: str) -> Any:
    """Return a public function or module, loaded on its first use."""
    if name == "__version__":
        # The version of the installed package, from its git tag.
        from importlib.metadata import version

        return version("xdreg")
    if name in ("bridges", "datasets", "itk_dreg", "plot"):
        return importlib.import_module(f"xdreg.{name}")
    if name in _MODULE_OF:
        value = getattr(importlib.import_module(f"xdreg.{_MODULE_OF[name]}"), name)
        globals()[name] = value
        return value
    msg = f"module 'xdreg' has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    """Return the public names."""
    return __all__
