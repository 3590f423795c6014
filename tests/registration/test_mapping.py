"""The map over blocks: one small task for a block, or for several."""

import cloudpickle
import dask
import numpy as np
import pytest

import xdreg
from tests.helpers.methods import shift_by_two


@pytest.mark.slow
def test_many_blocks_share_a_task_and_nothing_changes(monkeypatch):
    pair = xdreg.datasets.phantom_pair((64, 72), amplitude=2.0)
    options = {"stages": [shift_by_two], "block_shape": 12, "progress": False}
    alone = pair.fixed.dreg.register(pair.moving, **options)
    monkeypatch.setattr("xdreg.registration.mapping.MOST_TASKS", 5)
    together = pair.fixed.dreg.register(pair.moving, **options)
    assert alone.block_status.size == 36
    np.testing.assert_array_equal(alone.block_status, together.block_status)
    np.testing.assert_array_equal(alone.displacement, together.displacement)


def test_a_block_is_one_task():
    """A worker would otherwise hold a dozen kilobytes of each till the last one."""
    pair = xdreg.datasets.phantom_pair((64, 72), amplitude=2.0)
    graphs = []

    class Watch(dask.callbacks.Callback):
        def _start(self, graph):
            graphs.append(graph)

    with Watch():
        field = pair.fixed.dreg.register(
            pair.moving, stages=[shift_by_two], block_shape=12, progress=False
        )
    assert field.block_status.size == 36
    (graph,) = (g for g in graphs if any("register_block" in str(key) for key in g))
    assert len(graph) <= 36 + 5
    sizes = [
        len(cloudpickle.dumps(task))
        for key, task in graph.items()
        if str(key).startswith("('register_block")
    ]
    assert len(sizes) == 36
    # Ten thousand of them stay below what Dask warns of, ten megabytes.
    assert max(sizes) < 1_000
