"""Points, shapes and surfaces of napari mapped by a field, without napari.

Layer data are the tuples ``(data, meta, kind)`` that napari's plugins exchange and that
``as_layer_data_tuple`` of a layer returns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from xdreg.errors import InputError
from xdreg.fields.field import field_grid
from xdreg.fields.points import transform_points
from xdreg.stores.napari_layers import layer_data, per_axis

if TYPE_CHECKING:
    import xarray as xr

    from xdreg.views.napari_images import LayerData


def transform_layer(
    field: xr.Dataset, layer: LayerData, *, inverse: bool = False
) -> LayerData:
    """Map a napari layer of the fixed image into the moving one, or back.

    Parameters
    ----------
    field : Dataset
        A displacement field, fixed → moving.
    layer : tuple (data, meta, kind)
        ``"points"`` are an array (n, d), ``"shapes"`` a list of such arrays, a
        ``"surface"`` vertices, faces and optional values. The last axes are those of
        the field; axes before them, such as time, are kept. ``scale`` and ``translate``
        in ``meta`` give coordinates in the units of the field.
    inverse
        As in `transform_points`.

    Returns
    -------
    tuple (data, meta, kind)
        In physical units, with a scale of one and no translation along the field's
        axes. NaN where `transform_points` returns NaN. Of rectangles and ellipses the
        corners are mapped.

    Raises
    ------
    InputError
        If the layer is of another kind, has too few axes, or is rotated or sheared.

    Examples
    --------
    >>> from xdreg.fields.displacement import make_field
    >>> from xdreg.grid import Grid
    >>> grid = Grid(("y", "x"), (3, 3), (1.0, 1.0), (0.0, 0.0))
    >>> field = make_field(np.full((2, 3, 3), 0.5, np.float32), grid)
    >>> line = np.array([[0, 0], [4, 2]])
    >>> meta = {"scale": (0.5, 0.5), "shape_type": ["line"]}
    >>> data, meta, kind = transform_layer(field, ([line], meta, "shapes"))
    >>> data[0].tolist(), meta["scale"], kind
    ([[0.5, 0.5], [2.5, 1.5]], (1.0, 1.0), 'shapes')
    """
    data, meta, kind = layer_data(layer)
    groups = [data] if kind == "points" else list(data)
    if kind == "surface":
        groups = groups[:1]
    arrays = [np.asarray(group, np.float64) for group in groups]
    ndim = field_grid(field).ndim
    axes = {array.shape[1] if array.ndim == 2 else 0 for array in arrays} or {ndim}
    if len(axes) > 1 or min(axes) < ndim:
        msg = f"the layer has data of {sorted(axes)} axes; expected {ndim} or more"
        raise InputError(msg)
    count = axes.pop()
    scale = per_axis(meta, "scale", 1.0, count)
    translate = per_axis(meta, "translate", 0.0, count)
    joined = np.concatenate([np.empty((0, count)), *arrays])
    physical = joined[:, -ndim:] * scale[-ndim:] + translate[-ndim:]
    joined[:, -ndim:] = transform_points(field, physical, inverse=inverse)
    ends = np.cumsum([len(array) for array in arrays])
    moved: Any = np.split(joined, ends[:-1]) if arrays else []
    scale[-ndim:], translate[-ndim:] = 1.0, 0.0
    meta |= {"scale": tuple(scale.tolist()), "translate": tuple(translate.tolist())}
    if kind == "points":
        (moved,) = moved
    elif kind == "surface":
        moved = (*moved, *data[1:])
    return moved, meta, kind
