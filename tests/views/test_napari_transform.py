"""Layers of napari mapped by a field."""

import numpy as np
import pytest

import xdreg
from tests.helpers.fields import Known


def test_layers_are_mapped_in_physical_units():
    known = Known(3, 20)
    lower, upper = known.fixed.bounds
    points = np.random.default_rng(0).uniform(lower + 3, upper - 3, (6, 3))
    scale, shift = np.array([2.0, 0.5, 0.25]), np.array([1.0, 2.0, 3.0])
    pixels = np.column_stack([np.full(6, 7), (points - shift) / scale])
    meta = {
        "name": "cells", "scale": (9, *scale), "translate": (0, *shift),
        "rotate": np.eye(4), "shear": np.zeros(6), "affine": np.eye(5),
    }  # fmt: skip
    expected = known.field.dreg.transform_points(points)
    data, found, kind = known.field.dreg.transform_layer((pixels, meta, "points"))
    np.testing.assert_allclose(data[:, 1:], expected, atol=1e-6)
    assert (data[:, 0] == 7).all()
    assert (found["scale"], found["name"], kind) == ((9, 1, 1, 1), "cells", "points")
    assert meta["scale"][1] == 2
    back, *_ = known.field.dreg.transform_layer((data, found, kind), inverse=True)
    np.testing.assert_allclose(back[:, 1:], points, atol=1e-3)
    shapes, *_ = xdreg.transform_layer(
        known.field, ([points[:2], points[2:]], {}, "shapes")
    )
    np.testing.assert_allclose(np.concatenate(shapes), expected, atol=1e-6)
    surface = (points, np.array([[0, 1, 2]]), np.arange(6))
    (vertices, faces, values), *_ = xdreg.transform_layer(
        known.field, (surface, {}, "surface")
    )
    np.testing.assert_allclose(vertices, expected, atol=1e-6)
    assert faces.shape == (1, 3)
    assert values.tolist() == list(range(6))
    assert xdreg.transform_layer(known.field, ([], {}, "shapes"))[0] == []


@pytest.mark.parametrize(
    ("layer", "message"),
    [((np.zeros((2, 3)), {}, "image"), "kind among"), (np.zeros((2, 3)), "kind among"),
     ((np.zeros((2, 2)), {}, "points"), "expected 3 or more"),
     (([np.zeros((2, 3)), np.zeros((2, 4))], {}, "shapes"), "expected 3 or more"),
     ((np.zeros((2, 3)), {"scale": (1, 2)}, "points"), "scale of the layer"),
     ((np.zeros((2, 3)), {"shear": (1, 0, 0)}, "points"), "has a shear")],
)  # fmt: skip
def test_layers_that_do_not_fit_are_refused(layer, message):
    with pytest.raises(xdreg.InputError, match=message):
        xdreg.transform_layer(Known(3).field, layer)
