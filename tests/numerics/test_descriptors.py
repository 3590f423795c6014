"""The descriptors against their definition."""

import numpy as np
import pytest
import scipy.ndimage

from tests.helpers.images import texture
from xdreg.numerics import descriptors
from xdreg.numerics.descriptors import descriptor


@pytest.mark.parametrize(("shape", "channels"), [((9, 10, 11), 12), ((1, 20, 22), 4)])
def test_descriptor_of_the_paper(shape, channels):
    """Against the definition, pair by pair, in plain numpy."""
    values = texture(shape, 1.0 if shape[0] > 1 else (0, 1, 1))
    radius = (1 if shape[0] > 1 else 0, 1, 1)
    size = [2 * r + 1 for r in radius]
    stored = descriptor(values, radius)
    found = stored[..., :channels]
    assert found.shape == (*shape, channels)
    assert not stored[..., channels:].any()
    distances = []
    for pair in descriptors.neighbour_pairs(shape):
        shifted = []
        for side in pair:
            places = [
                np.clip(np.arange(n) + step, 0, n - 1)
                for n, step in zip(shape, side, strict=True)
            ]
            shifted.append(values[np.ix_(*places)])
        difference = (shifted[0] - shifted[1]).astype(float) ** 2
        box = scipy.ndimage.uniform_filter(difference, size, mode="constant")
        distances.append(box * np.prod(size))
    distances = np.stack(distances, axis=-1)
    mean = distances.mean(axis=-1, keepdims=True)
    variance = np.maximum(mean, descriptors.LEAST_VARIANCE * mean.mean())
    expected = np.exp((distances.min(axis=-1, keepdims=True) - distances) / variance)
    np.testing.assert_allclose(
        found / descriptors.SCALE, expected, atol=0.5 / descriptors.SCALE + 1e-5
    )
