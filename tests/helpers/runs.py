"""Registrations that are cut off, killed or hurt, and then go on."""

import subprocess
import sys
import textwrap
from pathlib import Path

import dask
import zarr.storage._local

import xdreg
from tests.helpers.hostile import hostile

TWICE = [
    xdreg.Affine(level=0, metric="lncc", iterations=3),
    xdreg.LocalCorrelation(level=1, iterations=3, metric="lncc"),
    xdreg.LocalCorrelation(level=0, iterations=3, metric="lncc"),
]
OPTIONS = {"block_shape": 36, "progress": False}
DRIVER = """
    import sys
    from tests.helpers.runs import harm_in_a_run
    print(harm_in_a_run(*sys.argv[1:]), flush=True)
"""


def small_pair():
    """Return a small phantom, in memory."""
    phantom = xdreg.datasets.phantom_pair((72, 80), amplitude=2.0)
    return phantom.fixed.compute(), phantom.moving.compute()


def register(where, **more):
    """Register in blocks, one after the other, so that writes have an order."""
    fixed, moving = small_pair()
    with dask.config.set(scheduler="synchronous"):
        return fixed.dreg.register(
            moving, workdir=where, **{"stages": TWICE, **OPTIONS, **more}
        )


def bits(field):
    """Return all that a run finds, but for times."""
    kept = field.drop_vars([n for n in field if "seconds" in n], errors="ignore")
    return {name: kept[name].values.tobytes() for name in kept.data_vars}


class PowerCut(BaseException):
    """Ends a run between two writes."""


class Writes:
    """Counts what a run writes, and ends it at a write; that one may be cut short."""

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
            # Zarr's own renames are part of its writes.
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
        # What a file may be after a power cut: short, empty, or zeros.
        content = path.read_bytes()
        kept = {"short": content[: len(content) // 2], "empty": b""}
        path.write_bytes(kept.get(self.cut, bytes(len(content))))
        raise PowerCut


def harm_in_a_run(kind, folder):
    """Register in sixteen blocks; half of them do harm the first time they run."""
    options = {"kind": kind, "share": 0.5}
    options |= {name: str(Path(folder) / name) for name in ("once", "log")}
    stage = xdreg.Custom(
        method=hostile, level=0, options=options, isolated=kind != "kill"
    )
    fixed, moving = small_pair()
    field = fixed.dreg.register(
        moving,
        stages=[stage],
        block_shape=20,
        metric="ncc",
        workdir=Path(folder) / "run",
        progress=False,
    )
    return field.displacement.values.tobytes().hex()


def driver(kind, folder):
    """Start a Python that does so."""
    for name in ("once", "log"):
        (folder / name).mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(DRIVER), kind, str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def calls(folder):
    """Return how often each block ran."""
    names = [p.name.rsplit("-", 1)[0] for p in (folder / "log").iterdir()]
    return {name: names.count(name) for name in names}
