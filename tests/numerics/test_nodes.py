"""Displacements on nodes of one or two voxels."""

import itertools

import numpy as np
import pytest

from tests.helpers.images import texture
from xdreg.engines.correlation import correlation_force
from xdreg.engines.mind import descriptor_force
from xdreg.numerics.filters import gaussian_taps, node_taps
from xdreg.numerics.nodes import Nodes

ONE = np.ones(3, np.float32)


def test_nodes_are_apart_where_updates_are_smooth_and_axes_long():
    nodes = Nodes.smoothed((64, 20, 33), (2.0, 2.0, 1.0), 2)
    assert nodes.stride == (2, 1, 1)
    assert nodes.shape == (32, 20, 33)
    assert Nodes.smoothed((64, 65, 66), (4.0,) * 3, 1).stride == (1, 1, 1)


@pytest.mark.parametrize("voxels", [(8, 10, 12), (9, 11, 7), (1, 9, 10)])
def test_a_linear_displacement_is_exact_between_and_beyond_nodes(voxels):
    stride = tuple(min(2, n) for n in voxels)
    nodes = Nodes(voxels, stride)
    place = np.moveaxis(np.indices(voxels, np.float32), 0, -1)
    linear = place @ np.array(
        [[0.1, 0.2, -0.3], [0, 0.5, 0.1], [0.2, -0.1, 0.3]], np.float32
    )
    # A last node of one voxel lies where one of two would: its mean is that voxel.
    even = linear[
        tuple(slice(0, n - n % s) for n, s in zip(voxels, stride, strict=True))
    ]
    found = Nodes(even.shape[:3], stride)
    np.testing.assert_allclose(
        found.expanded(found.averaged(even)), even, rtol=0, atol=1e-5
    )
    assert nodes.expanded(nodes.averaged(linear)).shape == linear.shape


def test_one_node_per_voxel_changes_nothing():
    nodes = Nodes((3, 4, 5))
    values = np.random.default_rng(0).random((3, 4, 5, 3), np.float32)
    assert nodes.expanded(values) is values
    assert nodes.averaged(values) is values


@pytest.mark.parametrize("sigma", [0.0, 0.36, 0.72, 1.2, 2.0, 4.0])
def test_weights_on_nodes_have_the_variance_of_those_on_voxels(sigma):
    def variance(taps):
        place = np.arange(taps.size) - taps.size // 2
        return float((taps * place**2).sum())

    taps = node_taps(sigma, 2)
    assert taps.sum() == pytest.approx(1)
    assert 4 * variance(taps) == pytest.approx(
        variance(gaussian_taps(sigma)), rel=0.03, abs=1e-6
    )


@pytest.mark.parametrize("metric", ["lncc", "mind"])
@pytest.mark.parametrize("voxels", [(16, 18, 20), (15, 17, 13), (1, 32, 35)])
def test_a_force_on_nodes_is_about_the_mean_of_that_on_voxels(metric, voxels):
    """Boxes lie around nodes only, and are as wide as whole nodes."""
    sigma = (2.0 if voxels[0] > 1 else 0, 2.0, 2.0)
    images = texture(voxels, sigma, seed=1), texture(voxels, sigma, seed=2)
    images = images[0], images[0] + np.float32(0.5) * images[1]
    images[1][:, :3] = np.nan
    radius = tuple(0 if n == 1 else 3 for n in voxels)
    updates = []
    for stride in (1, 2):
        nodes = Nodes(voxels, tuple(min(stride, n) for n in voxels))
        still = np.zeros((*nodes.shape, 3), np.float32)
        update, totals = still.copy(), np.zeros((nodes.shape[0], 2))
        kernels = {
            "lncc": lambda n=nodes: correlation_force(*images, radius, ONE, None, n),
            "mind": lambda n=nodes: descriptor_force(*images, (1, 1, 1), ONE, n),
        }[metric]()
        for kernel in kernels:
            kernel(0, nodes.shape[0], still, update, totals)
        updates.append(update)
        assert totals[:, 1].all()
    fine = nodes.averaged(updates[0])
    assert np.corrcoef(fine.ravel(), updates[1].ravel())[0, 1] > 0.93
    slope = (fine * updates[1]).sum() / (fine**2).sum()
    assert slope == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("metric", ["lncc", "mind"])
def test_slabs_of_nodes_have_the_bits_of_the_whole(metric):
    voxels = (33, 18, 20)
    nodes = Nodes(voxels, (2, 2, 2))
    images = texture(voxels, 1.5, seed=1), texture(voxels, 1.5, seed=2)
    results = []
    for edges in ([0, 17], [0, 5, 6, 11, 17]):
        still = np.full((*nodes.shape, 3), 0.3, np.float32)
        update, totals = np.zeros_like(still), np.zeros((nodes.shape[0], 2))
        kernels = (
            correlation_force(*images, (6, 6, 6), ONE, None, nodes)
            if metric == "lncc"
            else descriptor_force(*images, (1, 1, 1), ONE, nodes)
        )
        for kernel in kernels:
            for start, stop in itertools.pairwise(edges):
                kernel(start, stop, still, update, totals)
        results.append((update, totals))
    np.testing.assert_array_equal(*(update for update, _ in results))
    np.testing.assert_array_equal(*(totals for _, totals in results))
