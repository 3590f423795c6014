"""The map over blocks: small tasks, for one block each or for several."""

import cloudpickle
import dask
import numpy as np
import pytest

import xdreg
from tests.helpers.methods import shift_by_two

OPTIONS = {
    "stages": [xdreg.Custom(method=shift_by_two, isolated=False)],
    "block_shape": 12,
    "progress": False,
}


@pytest.fixture(scope="module")
def pair():
    return xdreg.datasets.phantom_pair((64, 72), amplitude=2.0)


@pytest.fixture(scope="module")
def alone(pair):
    """Return a field whose blocks are one task each, and the graphs that ran."""
    graphs = []

    class Watch(dask.callbacks.Callback):
        def _start(self, graph):
            graphs.append(graph)

    with Watch():
        field = pair.fixed.dreg.register(pair.moving, **OPTIONS)
    assert field.block_status.size == 36
    return field, graphs


def test_many_blocks_share_a_task_and_nothing_changes(pair, alone, monkeypatch):
    field, _ = alone
    monkeypatch.setattr("xdreg.registration.mapping.MOST_TASKS", 5)
    together = pair.fixed.dreg.register(pair.moving, **OPTIONS)
    np.testing.assert_array_equal(field.block_status, together.block_status)
    np.testing.assert_array_equal(field.displacement, together.displacement)


def test_the_graph_of_many_blocks_stays_small(alone):
    _, graphs = alone
    (graph,) = (g for g in graphs if any("register_block" in str(key) for key in g))
    # xarray makes five small tasks of each.
    assert len(graph) <= 36 * 5 + 5
    assert max(len(cloudpickle.dumps(task)) for task in graph.values()) < 10_000


def test_beyond_the_most_tasks_one_runs_several_blocks(pair, monkeypatch):
    monkeypatch.setattr("xdreg.registration.mapping.MOST_TASKS", 10)
    graphs = []

    class Watch(dask.callbacks.Callback):
        def _start(self, graph):
            graphs.append(graph)

    with Watch():
        pair.fixed.dreg.register(pair.moving, **OPTIONS)
    (graph,) = (g for g in graphs if any("register_block" in str(key) for key in g))
    assert len(graph) <= 9 * 5 + 5
