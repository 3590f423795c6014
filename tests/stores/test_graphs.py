"""Values that the tasks of a graph share."""

from dataclasses import replace

import dask

from xdreg.grid import Grid
from xdreg.stores.graphs import shared

GRID = Grid(("y", "x"), (4, 6), (2.0, 1.0), (10.0, 0.0))


def test_a_dataclass_passes_through_a_graph_unchanged():
    node = shared(GRID, "test")
    both = dask.compute(node, dask.delayed(lambda grid: grid.shape)(node))
    assert both == (GRID, (4, 6))


def test_nodes_are_named_by_the_step_and_the_value():
    keys = {shared(value, step).key for value in (GRID, None) for step in ("a", "b")}
    assert len(keys) == 4
    assert shared(replace(GRID), "a").key == shared(GRID, "a").key
