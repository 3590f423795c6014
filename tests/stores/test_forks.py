"""Processes that fork after they used xdreg: the forks work, or say what to do."""

import os
import subprocess
import sys
import textwrap

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")

#: The beginning of a user's script that registers, and then forks. `in_fork` returns
#: what a function returns in a fork, and does not wait for one that hangs.
SCRIPT = """
    import concurrent.futures, multiprocessing, os, warnings
    import dask, dask.array, numpy as np, xdreg

    warnings.simplefilter("ignore", DeprecationWarning)
    context = multiprocessing.get_context("fork")
    pair = xdreg.datasets.phantom_pair((48, 56), amplitude=2.0)
    fixed, moving = pair.fixed.compute(), pair.moving.compute()

    def register():
        stages = [xdreg.LocalCorrelation(level=0, iterations=2, metric="lncc")]
        options = {"stages": stages, "block_shape": 24, "progress": False}
        return xdreg.register(fixed, moving, **options)

    def total():
        return float(abs(register().displacement).sum())

    def in_fork(function):
        with context.Pool(1) as pool:
            return pool.apply_async(function).get(60)
"""


def run(body):
    """Run a script; return its output."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SCRIPT) + textwrap.dedent(body)],
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_fork_registers_reads_and_computes_like_its_parent(tmp_path):
    run(f"""
        field = register()
        field.dreg.to_ome_zarr({str(tmp_path / "field.ome.zarr")!r})
        stored = xdreg.open_field({str(tmp_path / "field.ome.zarr")!r})
        before = total()
        assert in_fork(total) == before

        def synchronous():
            with dask.config.set(scheduler="synchronous"):
                return total()

        def plain_dask():
            return int(dask.array.ones((40, 40), chunks=10).sum().compute())

        assert in_fork(synchronous) == before
        assert in_fork(plain_dask) == 1600
        # A fork of another thread than the first, which has used Dask too.
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            assert pool.submit(plain_dask).result() == 1600
            assert pool.submit(in_fork, plain_dask).result(60) == 1600

        # As a loader of training data does: several workers, an item each.
        def item(number):
            warped = stored.dreg.warp(moving).isel(y=number)
            points = stored.dreg.transform_points(np.full((1, 2), float(number)))
            return float(warped.sum()), points.tolist()

        with context.Pool(2) as pool:
            found = pool.map_async(item, range(6)).get(60)
        assert found == [item(number) for number in range(6)]
        assert total() == before
    """)


def test_a_fork_of_a_process_with_a_cluster_uses_its_own_threads():
    run("""
        from distributed import Client

        with Client(processes=False, n_workers=1, dashboard_address=None) as client:
            before = total()
            child = os.fork()
            if child == 0:
                os._exit(0 if total() == before else 1)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
            assert total() == before
    """)
