"""Registrations that are cut off or killed and then resumed."""

import functools
import hashlib
import os
import signal
from pathlib import Path

import dask
import numpy as np
import zarr.storage._local

import xdreg
from tests.helpers.forks import context
from tests.helpers.hostile import hostile, shift

TWICE = [
    xdreg.Affine(level=0, metric="lncc", iterations=3),
    xdreg.LocalCorrelation(level=1, iterations=3, metric="lncc"),
    xdreg.LocalCorrelation(level=0, iterations=3, metric="lncc"),
]
FOUR = [
    xdreg.Affine(metric="lncc", iterations=3),
    xdreg.LocalCorrelation(level=1, iterations=4, metric="lncc"),
    xdreg.Custom(method=shift, level=1, options={"voxels": 0.1}),
    xdreg.LocalCorrelation(level=0, iterations=4, metric="mind"),
]
#: With a start, so that no run searches for the pose.
OPTIONS = {"block_shape": 36, "initial": np.eye(3), "progress": False}
#: Blocks at once in `harm_in_a_run`.
WORKERS = 2


@functools.cache
def small_pair():
    """Return a small phantom, in memory."""
    phantom = xdreg.datasets.phantom_pair((72, 80), amplitude=2.0)
    return phantom.fixed.compute(), phantom.moving.compute()


def register(where, **more):
    """Register one block after the other, so that writes have an order."""
    fixed, moving = small_pair()
    with dask.config.set(scheduler="synchronous"):
        return fixed.dreg.register(
            moving, workdir=where, **{"stages": TWICE, **OPTIONS, **more}
        )


def bits(field):
    """Return the bytes of all results of a run except times."""
    kept = field.drop_vars([n for n in field if "seconds" in n], errors="ignore")
    if "stage_blocks" in kept:
        names = enumerate(kept.stage_blocks.attrs["measures"].split())
        rows = [number for number, name in names if name != "seconds"]
        kept = kept.isel(measure=rows)
    return {name: kept[name].values.tobytes() for name in kept.data_vars}


class PowerCut(BaseException):
    """The end of a run between two writes."""


class Writes:
    """A counter of a run's writes that can end the run at one, or cut it short."""

    def __init__(self, monkeypatch):
        self.count, self.last, self.cut = 0, None, None
        put, replace = zarr.storage._local._put, Path.replace
        self._wrap(monkeypatch, put, replace)

    def _wrap(self, monkeypatch, put, replace):
        def counted_put(path, *arguments, **named):
            number = self.before()
            result = put(path, *arguments, **named)
            self.after(number, path)
            return result

        def counted_replace(path, target):
            # Renames by Zarr belong to its writes.
            if path.suffix == ".partial":
                return replace(path, target)
            number = self.before()
            result = replace(path, target)
            self.after(number, target)
            return result

        monkeypatch.setattr(zarr.storage._local, "_put", counted_put)
        monkeypatch.setattr(Path, "replace", counted_replace)

    def before(self):
        if self.last is not None and self.count == self.last and self.cut is None:
            raise PowerCut
        self.count += 1
        return self.count

    def after(self, number, path):
        if number != self.last or self.cut is None:
            return
        # A file may be short, empty or zeros after a power cut.
        content = path.read_bytes()
        kept = {"short": content[: len(content) // 2], "empty": b""}
        path.write_bytes(kept.get(self.cut, bytes(len(content))))
        raise PowerCut


def harm_in_a_run(kind, folder, share=0.5):
    """Register in sixteen blocks, a share of which fails the first time."""
    options = {"kind": kind, "share": float(share)}
    options |= {name: str(Path(folder) / name) for name in ("once", "log")}
    stage = xdreg.Custom(
        method=hostile, level=0, options=options, isolated=kind != "kill"
    )
    fixed, moving = small_pair()
    with dask.config.set(num_workers=WORKERS):
        field = fixed.dreg.register(
            moving,
            stages=[stage],
            block_shape=20,
            metric="ncc",
            workdir=Path(folder) / "run",
            progress=False,
        )
        return field.displacement.values.tobytes().hex()


def _drive(kind, folder, share):
    # Shells start what runs in the background with this signal ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.setsid()
    Path(folder, "result").write_text(harm_in_a_run(kind, folder, share), "utf-8")


def driver(kind, folder, share=0.5):
    """Start `harm_in_a_run` in a process of its own, which writes a file ``result``."""
    for name in ("once", "log"):
        (folder / name).mkdir(exist_ok=True)
    process = context().Process(target=_drive, args=(kind, folder, share))
    process.start()
    return process


def calls(folder):
    """Return how often each block was run."""
    names = [p.name.rsplit("-", 1)[0] for p in (folder / "log").iterdir()]
    return {name: names.count(name) for name in names}


def digest(chunk=None, **options):
    """Register in nine blocks; hash the field and its diagnostics except times.

    With a start, so that no run searches for the pose.
    """
    phantom = xdreg.datasets.phantom_pair((16, 48, 54), amplitude=2.0)
    fixed, moving = phantom.fixed, phantom.moving
    if chunk is None:
        images = fixed.compute(), moving.compute()
    else:
        images = fixed.chunk(chunk), moving.chunk(chunk)
    field = images[0].dreg.register(
        images[1],
        stages=FOUR,
        block_shape=18,
        initial=np.eye(4),
        progress=False,
        **options,
    )
    assert field.block_status.size == 9
    found = hashlib.sha256()
    for _, values in sorted(bits(field).items()):
        found.update(values)
    return found.hexdigest()
