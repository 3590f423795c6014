"""Values that the tasks of a graph share."""

import pickle

import dask
from dask.base import tokenize

from xdreg.graphs import Opaque, shared
from xdreg.grid import Grid

GRID = Grid(("y", "x"), (4, 6), (2.0, 1.0), (10.0, 0.0))


def test_a_dataclass_passes_through_a_graph_unchanged():
    node = shared(GRID, "test")
    both = dask.compute(node, dask.delayed(lambda grid: grid.shape)(node))
    assert both == (GRID, (4, 6))


def test_tokens_name_the_step_and_the_value():
    tokens = {
        tokenize(Opaque(value, step)) for value in (GRID, None) for step in ("a", "b")
    }
    assert len(tokens) == 4
    again = pickle.loads(pickle.dumps(Opaque(GRID, "a")))
    assert tokenize(again) == tokenize(Opaque(GRID, "a"))
    assert shared(GRID, "a").key == shared(GRID, "a").key
