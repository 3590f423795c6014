"""Seeded random damage to work directories, images and fields, and what comes of it.

``python -m tests.helpers.fuzzing KIND FIRST COUNT`` tries many seeds.
"""

import contextlib
import copy
import json
import math
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

import dask
import numpy as np

import xdreg

#: Seconds after which a case counts as hanging; most take less than one.
DEADLINE = 60.0

ODD = [
    *(None, True, False, -1, 0, 1, 2, 3, 0.5, -2.5, 1e-320, 1e-9, 1e9, 1e30, 1e300),
    *(1e400, -1e400, math.nan, 2**31, 2**63, 10**18, 10**400, "", "x", "NaN", "0"),
    *("../..", "/", "µm", "\ud800", "a" * 10_000, [], [[]], {}, {"a": 1}, [None, {}]),
    *([1e400, math.nan], [0, 0], [1, 1, 1], [1e9, 1, 1], [-1, 1], ["a", "b"]),
]


class TooLong(BaseException):
    """A case that does not end."""


@contextlib.contextmanager
def deadline(seconds=DEADLINE):
    """Raise in the main thread if the body takes longer."""

    def stop(*_):
        msg = f"longer than {seconds} s"
        raise TooLong(msg)

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def pick(rng, choices):
    """Return one of some choices."""
    return choices[int(rng.integers(len(choices)))]


def places(value, found=()):
    """Yield where every value of a document lies, as a path of keys."""
    yield found
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in items:
            yield from places(inner, (*found, key))


def edit(document, rng):
    """Return a document with a value removed, replaced, moved or repeated."""
    everywhere = list(places(document))
    place = pick(rng, everywhere)
    how = pick(rng, ["odd", "odd", "odd", "delete", "copy", "scale", "repeat", "text"])
    if not place:
        return pick(rng, ODD), "the document"
    result = copy.deepcopy(document)
    inner = result
    for key in place[:-1]:
        inner = inner[key]
    key, old = place[-1], inner[place[-1]]
    if how == "delete":
        del inner[key]
    elif how == "copy":
        value = document
        for part in pick(rng, everywhere):
            value = value[part]
        inner[key] = copy.deepcopy(value)
    elif how == "scale" and isinstance(old, int | float) and old:
        inner[key] = old * pick(rng, [-1, 0, 0.5, 2, 1e-9, 1e9, 1e200, 3])
    elif how == "repeat" and isinstance(inner, list):
        inner.insert(int(key), copy.deepcopy(old))
    elif how == "text" and isinstance(old, str) and old[:1] in "{[":
        # JSON within JSON, as attributes of fields hold it.
        with contextlib.suppress(ValueError):
            inner[key] = json.dumps(edit(json.loads(old), rng)[0])
    else:
        inner[key] = pick(rng, ODD)
    return result, f"{'/'.join(map(str, place))} {how} → {str(inner)[:200]}"


def spoil_bytes(path, rng):
    """Damage the content of a file."""
    content = bytearray(path.read_bytes())
    how = pick(rng, ["flip", "flip", "cut", "empty", "zeros", "noise", "longer"])
    if how == "flip" and content:
        for _ in range(int(rng.integers(1, 4))):
            content[int(rng.integers(len(content)))] ^= 1 << int(rng.integers(8))
    elif how == "cut":
        del content[int(rng.integers(len(content) + 1)) :]
    elif how == "zeros":
        content = bytes(len(content))
    elif how == "noise":
        content = rng.bytes(len(content))
    elif how == "longer":
        content += rng.bytes(int(rng.integers(1, 100)))
    else:
        content = b""
    path.write_bytes(content)
    return how


def replace_entry(path, rng, files):
    """Put something else in the place of a file or folder."""
    how = pick(rng, ["gone", "folder", "pipe", "loop", "dangling", "other", "device"])
    other = pick(rng, files)
    content = other.read_bytes() if how == "other" else b""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    if how == "folder":
        path.mkdir()
    elif how == "pipe":
        os.mkfifo(path)
    elif how == "loop":
        path.symlink_to(path)
    elif how == "dangling":
        path.symlink_to(path.parent / "nowhere")
    elif how == "device":
        path.symlink_to("/dev/zero")
    elif how == "other":
        path.write_bytes(content)
        return f"{how} {other.name}"
    return how


def damage(folder, rng):
    """Damage one entry of a folder; return what was done."""
    entries = sorted(folder.rglob("*"))
    files = [p for p in entries if p.is_file()]
    documents = [p for p in files if p.suffix == ".json" or p.name.startswith(".z")]
    how = pick(rng, ["bytes", "document", "document", "document", "entry"])
    if how == "entry":
        path = pick(rng, entries)
        done = replace_entry(path, rng, files)
    elif how == "document":
        path = pick(rng, documents)
        text = path.read_text(errors="replace")
        try:
            content, done = edit(json.loads(text), rng)
            path.write_text(json.dumps(content), errors="replace")
        except ValueError:
            done = spoil_bytes(path, rng)
        if rng.random() < 0.03:
            path.write_text("[" * 200_000)
            done = "deep"
    else:
        path = pick(rng, files)
        done = spoil_bytes(path, rng)
    return f"{path.relative_to(folder)}: {done}"


class Cases:
    """Damaged copies of a sound folder.

    Parameters
    ----------
    sound
        The folder.
    use
        Function of a damaged folder and a random generator; it raises `AssertionError`
        where the result is wrong.
    """

    def __init__(self, sound, use):
        self.sound, self.use = sound, use

    def fault(self, seed):
        """Return what went wrong with a seed, and what was damaged; None if nothing."""
        rng = np.random.default_rng(seed)
        with tempfile.TemporaryDirectory(prefix="fuzz-") as place:
            folder = Path(place) / self.sound.name
            shutil.copytree(self.sound, folder)
            done = damage(folder, rng)
            if rng.random() < 0.2:
                with contextlib.suppress(OSError):
                    done += f"; {damage(folder, rng)}"
            try:
                with deadline(), warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    with dask.config.set(scheduler="synchronous"):
                        self.use(folder, rng)
            except xdreg.XdregError as error:
                return None if str(error) else ("an error without a message", done)
            except (Exception, TooLong) as error:
                frames = traceback.extract_tb(error.__traceback__)
                own = [f for f in frames if "/xdreg/" in f.filename][-1:]
                where = "".join(f" at {f.filename}:{f.lineno}" for f in own)
                text = str(error)[:300]
                return f"{type(error).__name__}: {text}{where}", done
        return None


def work_directories(folder):
    """Return cases of work directories; a resumed run must return the same bits."""
    from tests.helpers.runs import bits, small_pair

    fixed, moving = small_pair()
    stages = [
        xdreg.Affine(level=1, metric="lncc", iterations=2),
        xdreg.Custom(method=_bend, level=1, isolated=False, reduction="translation"),
        xdreg.Custom(method=_bend, level=0, isolated=False),
    ]
    options = {"stages": stages, "block_shape": 40, "overlap": 8, "metric": "lncc"}
    options |= {"fixed_mask": "auto", "initial": np.eye(3), "progress": False}

    def run(where):
        return bits(fixed.dreg.register(moving, workdir=where, **options))

    with dask.config.set(scheduler="synchronous"):
        expected = run(folder / "run")

    def use(where, rng):
        assert run(where) == expected, "another field"

    return Cases(folder / "run", use)


def _bend(fixed, moving):
    """Return a smooth displacement that depends on the images."""
    from xdreg.coordinates import grid_of

    grid = grid_of(fixed)
    values = np.zeros((grid.ndim, *grid.shape), np.float32)
    values[-1] = 0.3 * np.sin(grid.axis("x") / 9) + 0.2 * float(fixed.mean() > 0.1)
    return (
        moving.copy(data=values[0]).expand_dims(component=grid.ndim).copy(data=values)
    )


def images(folder):
    """Return cases of images; what is read is right, or nothing is."""
    image = xdreg.datasets.phantom_pair((24, 30), amplitude=1.0).fixed.compute()
    image = image.expand_dims(t=1, c=2) * 200
    for version in VERSIONS:
        path = folder / "images" / version
        path.parent.mkdir(exist_ok=True)
        xdreg.save(image.astype("uint16"), path, version=version, chunks=16, levels=2)
    kept = copy.deepcopy(image.astype("uint16").values)

    def use(where, rng):
        for version in VERSIONS:
            with contextlib.suppress(xdreg.XdregError):
                _read_image(where / version, kept, rng)

    return Cases(folder / "images", use)


def _read_image(path, kept, rng):
    from xdreg.stores.readers import image_reader

    tree = xdreg.open_ome_zarr(path)
    levels = [node["image"] for node in tree.children.values()]
    for level in levels:
        reader = image_reader(level, select={"t": 0, "c": 0})
        if level.size < 10**6:
            reader.read_known()
    levels[0].isel(t=0, c=0).dreg.plan(levels[-1].isel(t=0, c=0), metric="lncc")
    small = all(level.size < 10**6 for level in levels)
    if small and rng.random() < 0.1:
        xdreg.register(
            tree.isel(t=0, c=0),
            tree.isel(t=0, c=1),
            stages=[xdreg.LocalCorrelation(level=0, iterations=1, metric="lncc")],
            progress=False,
        )


def fields(folder):
    """Return cases of fields."""
    from tests.helpers.runs import small_pair

    fixed, moving = (v[::2, ::2] for v in small_pair())
    stages = [
        xdreg.Affine(metric="lncc", iterations=2),
        xdreg.LocalCorrelation(level=0, iterations=2),
    ]
    field = xdreg.register(
        fixed, moving, stages=stages, block_shape=20, overlap=6, progress=False
    ).load()
    inverse = xdreg.inverse(field).load()
    path = folder / "field.ome.zarr"
    xdreg.save(field, path, inverse=inverse)
    points = np.array([[3.0, 4.0], [10.5, 11.5], [1e6, -1e6]])
    every = [
        lambda f, out: f.dreg.statistics().compute(),
        lambda f, out: xdreg.bridges.to_itk_transform(f),
        lambda f, out: f.dreg.transform_points(points),
        lambda f, out: xdreg.warp(f, moving).compute(),
        lambda f, out: xdreg.warp(f, moving, like=fixed).compute(),
        lambda f, out: xdreg.inverse(f).compute(),
        lambda f, out: xdreg.compose(f, f).compute(),
        lambda f, out: xdreg.bridges.to_matrix(f),
        lambda f, out: xdreg.save(f, out / "again.zarr", affine=True),
        lambda f, out: f.dreg.jacobian_determinant().compute(),
        lambda f, out: xdreg.register(
            fixed, moving, initial=f, stages=stages[1:], progress=False
        ),
    ]
    drawn = [
        lambda f, out: xdreg.report(f, out / "a.html", fixed, moving),
        lambda f, out: xdreg.plot.block_map(f),
        lambda f, out: xdreg.plot.overview(f, fixed, moving),
        lambda f, out: xdreg.plot.deformed_grid(f),
        lambda f, out: xdreg.plot.quiver(f),
    ]

    def use(where, rng):
        for back in (False, True):
            with contextlib.suppress(xdreg.XdregError):
                opened = xdreg.open_field(where, inverse=back)
                _info(where, opened)
                chosen = [pick(rng, every) for _ in range(2)]
                if rng.random() < 0.1:
                    chosen.append(pick(rng, drawn))
                for operation in chosen:
                    with contextlib.suppress(xdreg.XdregError):
                        operation(opened, where.parent)

    return Cases(path, use)


def _summary(field):
    from xdreg.views.summary import summary_html, summary_text

    return summary_text(field), summary_html(field)


def _info(path, field):
    from xdreg.cli.summary import field_summary, summary_lines

    _summary(field)
    summary_lines(field_summary(field))


VERSIONS = ("0.4", "0.5", "0.6")
KINDS = {"workdir": work_directories, "image": images, "field": fields}


def main(kind, first, count):
    """Try some seeds and print what failed."""
    resource.setrlimit(resource.RLIMIT_AS, (2**33, 2**33))
    with tempfile.TemporaryDirectory() as place:
        cases = KINDS[kind](Path(place))
        began = time.monotonic()
        for seed in range(int(first), int(first) + int(count)):
            found = cases.fault(seed)
            if found:
                print(seed, *found, sep="\n    ", flush=True)
        print(f"{count} seeds in {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main(*sys.argv[1:])
