"""The progress line of Dask computations."""

import dask.array
from dask.callbacks import Callback
from rich.progress import Progress

from xdreg.stores.progress import _Tasks


class _Shares(Callback):
    """Notes the share that is shown after every task."""

    def __init__(self, bars, line):
        self.bars, self.line, self.shares = bars, line, []

    def _posttask(self, *_):
        task = self.bars.tasks[self.line]
        # Dask calls its callbacks in any order: this may come before the line's own.
        if task.total is not None:
            self.shares.append(task.completed / task.total)


def test_the_bar_does_not_fall_back_when_another_computation_begins():
    bars = Progress(disable=True)
    line = bars.add_task("writing", total=None)
    shares = _Shares(bars, line)
    with _Tasks(bars, line), shares:
        for size in (6, 40, 3):
            dask.array.ones(size, chunks=1).sum().compute()
    assert len(shares.shares) > 30
    assert shares.shares == sorted(shares.shares)
    assert 0.9 < shares.shares[-1] < 1
