"""The ``.dreg`` accessors of xarray objects: each method calls a public function.

Images are DataTrees and DataArrays, fields are Datasets.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import xarray as xr

if TYPE_CHECKING:
    import os
    from pathlib import Path

    from xdreg.registration.planning import Plan


class ImageAccessor:
    """Methods of an image, as ``image.dreg``."""

    def __init__(self, image: xr.DataArray | xr.DataTree) -> None:
        self._image = image

    def register(self, moving: Any, **options: Any) -> xr.Dataset:
        """Register this fixed image to a moving one; see `xdreg.register`."""
        from xdreg.registration.register import register

        return register(self._image, moving, **options)

    def plan(self, moving: Any, **options: Any) -> Plan:
        """Return the plan of a registration; see `xdreg.plan`."""
        from xdreg.registration.register import plan

        return plan(self._image, moving, **options)

    def to_itk_image(self) -> Any:
        """Return the image, or a tree's finest level, as an ITK image in memory."""
        from xdreg.stores.itk_images import to_itk_image
        from xdreg.stores.pyramid import image_levels

        return to_itk_image(image_levels(self._image, "image")[0])

    def to_ome_zarr(self, path: str | os.PathLike[str], **options: Any) -> None:
        """Write the image with its pyramid; see `xdreg.save`."""
        from xdreg.fields.store import save
        from xdreg.stores.pyramid import image_levels

        save(image_levels(self._image, "image")[0], path, **options)


class FieldAccessor:
    """Methods of a displacement field, as ``field.dreg``."""

    def __init__(self, field: xr.Dataset) -> None:
        self._field = field

    def warp(self, moving: Any, **options: Any) -> xr.DataArray:
        """Resample the moving image onto the fixed grid, lazily; see `xdreg.warp`."""
        from xdreg.fields.warp import warp

        return warp(self._field, moving, **options)

    def warp_to(
        self, moving: Any, path: str | os.PathLike[str], **options: Any
    ) -> None:
        """Resample the moving image into an OME-Zarr; see `xdreg.warp_to`."""
        from xdreg.fields.warp_to import warp_to

        warp_to(self._field, moving, path, **options)

    def transform_points(self, points: Any, *, inverse: bool = False) -> Any:
        """Map fixed points into the moving image; see `xdreg.transform_points`."""
        from xdreg.fields.points import transform_points

        return transform_points(self._field, points, inverse=inverse)

    def transform_layer(self, layer: Any, *, inverse: bool = False) -> Any:
        """Map a layer of napari; see `xdreg.transform_layer`."""
        from xdreg.views.napari_transform import transform_layer

        return transform_layer(self._field, layer, inverse=inverse)

    def inverse(self, like: Any = None, **options: Any) -> xr.Dataset:
        """Return the field moving → fixed, lazily; see `xdreg.inverse`."""
        from xdreg.fields.inverse import inverse

        return inverse(self._field, like, **options)

    def compose(self, *others: Any, **options: Any) -> xr.Dataset:
        """Return the field followed by others, lazily; see `xdreg.compose`."""
        from xdreg.fields.composition import compose

        return compose(self._field, *others, **options)

    def jacobian_determinant(self) -> xr.DataArray:
        """Return the field's Jacobian determinant; see `xdreg.jacobian_determinant`."""
        from xdreg.fields.measures import jacobian_determinant

        return jacobian_determinant(self._field)

    def folded_share(self) -> xr.DataArray:
        """Return the share of points that fold; see `xdreg.folded_share`."""
        from xdreg.fields.measures import folded_share

        return folded_share(self._field)

    def statistics(self, **options: Any) -> xr.Dataset:
        """Return measures per block, lazily; see `xdreg.statistics`."""
        from xdreg.fields.measures import statistics

        return statistics(self._field, **options)

    def consistency(self, inverse: xr.Dataset) -> xr.DataArray:
        """Return the error of mapping there and back; see `xdreg.consistency`."""
        from xdreg.fields.measures import consistency

        return consistency(self._field, inverse)

    def to_itk_transform(self, **options: Any) -> Any:
        """Return the field as an ITK transform; see `xdreg.bridges`."""
        from xdreg.bridges import to_itk_transform

        return to_itk_transform(self._field, **options)

    def to_file(self, path: str | os.PathLike[str], **options: Any) -> None:
        """Write the field for another tool; see `xdreg.write_transform`."""
        from xdreg.bridges import write_transform

        write_transform(self._field, path, **options)

    def to_ome_zarr(self, path: str | os.PathLike[str], **options: Any) -> None:
        """Write the field as OME-Zarr 0.6; see `xdreg.save`."""
        from xdreg.fields.store import save

        save(self._field, path, **options)

    def plot(self, fixed: Any = None, moving: Any = None, **options: Any) -> Any:
        """Draw the pair, the field and its blocks; see `xdreg.plot.overview`."""
        from xdreg.views.plot import overview

        return overview(self._field, fixed, moving, **options)

    def report(
        self, path: str | os.PathLike[str], fixed: Any, moving: Any, **options: Any
    ) -> Path:
        """Write a report on the registration as a web page; see `xdreg.report`."""
        from xdreg.views.report import report

        return report(self._field, path, fixed, moving, **options)

    def __repr__(self) -> str:
        """Return a summary of the field as text."""
        from xdreg.views.summary import summary_text

        return summary_text(self._field)

    def _repr_html_(self) -> str:
        """Return a summary of the field for a notebook."""
        from xdreg.views.summary import summary_html

        return summary_html(self._field)


def install() -> None:
    """Register the accessors with xarray."""
    xr.register_dataarray_accessor("dreg")(ImageAccessor)  # type: ignore[no-untyped-call]
    xr.register_datatree_accessor("dreg")(ImageAccessor)  # type: ignore[no-untyped-call]
    xr.register_dataset_accessor("dreg")(FieldAccessor)  # type: ignore[no-untyped-call]
