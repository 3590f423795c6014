"""The ``.dreg`` accessors: thin methods, each with an equal function.

Registered on DataTree and DataArray for images, and on Dataset for fields.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import xarray as xr

if TYPE_CHECKING:
    import os

    from xdreg.planning import Plan


class ImageAccessor:
    """Registration of an image, as ``image.dreg``."""

    def __init__(self, image: xr.DataArray | xr.DataTree) -> None:
        self._image = image

    def register(self, moving: Any, **options: Any) -> xr.Dataset:
        """Register this fixed image to a moving one; see `xdreg.register`."""
        from xdreg.registration import register

        return register(self._image, moving, **options)

    def plan(self, moving: Any, **options: Any) -> Plan:
        """Return what `register` would do; see `xdreg.plan`."""
        from xdreg.registration import plan

        return plan(self._image, moving, **options)

    def to_itk_image(self) -> Any:
        """Return the image, a tree's finest level, as an ITK image in memory."""
        from xdreg.itk_bridge import to_itk_image
        from xdreg.multiscale import image_levels

        return to_itk_image(image_levels(self._image, "image")[0])

    def to_ome_zarr(self, path: str | os.PathLike[str], **options: Any) -> None:
        """Write the image with its pyramid; see `xdreg.save`."""
        from xdreg.multiscale import image_levels
        from xdreg.ome_zarr_writer import write_ome_zarr

        write_ome_zarr(image_levels(self._image, "image")[0], path, **options)


class FieldAccessor:
    """What a displacement field can do, as ``field.dreg``."""

    def __init__(self, field: xr.Dataset) -> None:
        self._field = field

    def warp(self, moving: Any, **options: Any) -> xr.DataArray:
        """Resample the moving image onto the fixed grid, lazily; see `xdreg.warp`."""
        from xdreg.resampling import warp

        return warp(self._field, moving, **options)

    def transform_points(self, points: Any) -> Any:
        """Map fixed points into the moving image; see `xdreg.transform_points`."""
        from xdreg.field import transform_points

        return transform_points(self._field, points)

    def jacobian_determinant(self) -> xr.DataArray:
        """Return the field's Jacobian determinant; see `xdreg.jacobian_determinant`."""
        from xdreg.field import jacobian_determinant

        return jacobian_determinant(self._field)

    def to_itk_transform(self) -> Any:
        """Return the field as an ``itk.DisplacementFieldTransform``, in memory."""
        from xdreg.field import open_displacement
        from xdreg.itk_bridge import displacement_to_itk

        reader = open_displacement(self._field)
        values, grid = reader.read_around(reader.grid)
        return displacement_to_itk(values, grid)

    def to_ome_zarr(self, path: str | os.PathLike[str], **options: Any) -> None:
        """Write the field as OME-Zarr 0.6; see `xdreg.save`."""
        from xdreg.field import save_field

        save_field(self._field, path, **options)

    def plot(self, fixed: Any, moving: Any, **options: Any) -> Any:
        """Draw the pair before and after; see `xdreg.plot.before_after`."""
        from xdreg.plot import before_after

        return before_after(self._field, fixed, moving, **options)


def install() -> None:
    """Register the accessors with xarray."""
    xr.register_dataarray_accessor("dreg")(ImageAccessor)  # type: ignore[no-untyped-call]
    xr.register_datatree_accessor("dreg")(ImageAccessor)  # type: ignore[no-untyped-call]
    xr.register_dataset_accessor("dreg")(FieldAccessor)  # type: ignore[no-untyped-call]
