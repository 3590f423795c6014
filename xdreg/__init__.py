"""Registration of images too large for memory, as map-reduce over blocks, on xarray.

>>> import xdreg
>>> pair = xdreg.datasets.phantom_pair((48, 56), amplitude=2.0)
>>> field = pair.fixed.dreg.register(pair.moving, progress=False)
>>> moved = field.dreg.warp(pair.moving)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

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
from xdreg.options import (
    Affine,
    BSpline,
    Consensus,
    Custom,
    LocalCorrelation,
    Rigid,
    Similarity,
    Translation,
)

if TYPE_CHECKING:
    from xdreg import bridges, datasets, itk_dreg, plot
    from xdreg.bridges import from_itk_transform, open_transform, write_transform
    from xdreg.composition import compose
    from xdreg.field import open_field, save
    from xdreg.inverse_field import inverse
    from xdreg.itk_bridge import from_itk_image, open_image, to_itk_image
    from xdreg.layers import transform_layer
    from xdreg.measures import (
        consistency,
        folded_share,
        jacobian_determinant,
        statistics,
    )
    from xdreg.ome_zarr import open_ome_zarr
    from xdreg.points import transform_points
    from xdreg.pyramid_warp import warp_to
    from xdreg.registration import plan, register
    from xdreg.reporting import report
    from xdreg.resampling import warp

    __version__: str

#: Where the public functions live; each module loads when it is first asked for.
_LAZY = {
    "register": "registration",
    "plan": "registration",
    "warp": "resampling",
    "warp_to": "pyramid_warp",
    "transform_points": "points",
    "transform_layer": "layers",
    "inverse": "inverse_field",
    "compose": "composition",
    "jacobian_determinant": "measures",
    "folded_share": "measures",
    "statistics": "measures",
    "consistency": "measures",
    "open_field": "field",
    "open_ome_zarr": "ome_zarr",
    "open_image": "itk_bridge",
    "from_itk_image": "itk_bridge",
    "to_itk_image": "itk_bridge",
    "from_itk_transform": "bridges",
    "open_transform": "bridges",
    "write_transform": "bridges",
    "save": "field",
    "report": "reporting",
}

__all__ = [
    "Affine",
    "BSpline",
    "Consensus",
    "Custom",
    "Grid",
    "InputError",
    "LocalCorrelation",
    "MethodCrash",
    "MethodError",
    "MethodTimeout",
    "Rigid",
    "Similarity",
    "StoreError",
    "Translation",
    "XdregError",
    "__version__",
    "bridges",
    "compose",
    "consistency",
    "datasets",
    "folded_share",
    "from_itk_image",
    "from_itk_transform",
    "inverse",
    "itk_dreg",
    "jacobian_determinant",
    "open_field",
    "open_image",
    "open_ome_zarr",
    "open_transform",
    "plan",
    "plot",
    "register",
    "report",
    "save",
    "statistics",
    "to_itk_image",
    "transform_layer",
    "transform_points",
    "warp",
    "warp_to",
    "write_transform",
]

_accessor.install()


def __getattr__(name: str) -> Any:
    """Load a public function, or a module of them, when it is first used."""
    if name == "__version__":
        # Of the package as it is installed: its git tag.
        from importlib.metadata import version

        return version("xdreg")
    if name in ("bridges", "datasets", "itk_dreg", "plot"):
        return importlib.import_module(f"xdreg.{name}")
    if name in _LAZY:
        value = getattr(importlib.import_module(f"xdreg.{_LAZY[name]}"), name)
        globals()[name] = value
        return value
    msg = f"module 'xdreg' has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    """List the public names."""
    return __all__
