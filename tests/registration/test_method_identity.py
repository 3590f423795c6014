"""What a user's method is known by: its code and all that the code uses."""

import dataclasses
import enum
import functools
import importlib
import logging
import os
import subprocess
import sys
import textwrap
import threading
import types

import dask.array
import itk
import numba
import numpy as np
import pytest
import scipy.special
import tensorstore
import xarray as xr
import zarr
from zarr.storage import LocalStore

from tests.helpers.pairs import shifted_pair
from xdreg.registration.method_identity import is_installed, what_is_known

#: A user's package: three modules, of which each uses the next.
PACKAGE = {
    "__init__.py": "",
    "methods.py": """
        import enum
        import functools
        from dataclasses import dataclass, field
        import numpy as np
        from . import middle
        from .middle import scaled as renamed
        NAMES = {"cortex", "hilus", "stratum", "alveus", "subiculum"}
        TABLE = {"b": [1, 2], "a": {frozenset("xyz"): np.arange(5)}}

        def by_import(fixed, moving):
            return renamed(fixed)

        def by_module(fixed, moving):
            return middle.scaled(fixed)

        def by_late_import(fixed, moving):
            from mine import middle as late
            return late.scaled(fixed)

        def by_constant(fixed, moving, names=frozenset(("q", "r", "s"))):
            return fixed if moving in {"a", "b", "c"} else NAMES, TABLE

        class Side(enum.Enum):
            LEFT = 1
            RIGHT = 2

        @dataclass
        class Model:
            weights: np.ndarray
            side: Side = Side.LEFT
            tags: set = field(default_factory=lambda: {"k", "l", "m", "n"})

            def run(self, fixed, moving):
                return middle.scaled(fixed) * self.weights

            @classmethod
            def make(cls, fixed, moving):
                return cls(fixed)

            @staticmethod
            def plain(fixed, moving):
                return fixed

        class Slotted:
            __slots__ = ("a", "b")

            def __init__(self, a):
                self.a, self.b = a, {"u", "v", "w"}

            def __call__(self, fixed, moving):
                return self.a

        def even(fixed, moving):
            return odd(fixed, moving)

        def odd(fixed, moving):
            return even(fixed, moving) + middle.SCALE

        def decorated(method):
            @functools.wraps(method)
            def inner(*images):
                return method(*images)
            return inner

        ALL = {
            "import": by_import,
            "module": by_module,
            "late": by_late_import,
            "constant": by_constant,
            "bound": Model(np.arange(3)).run,
            "class": Model.make,
            "static": Model.plain,
            "slots": Slotted(np.ones(2)),
            "recursion": even,
            "partial": functools.partial(by_import, moving={"d", "e", "f"}),
            "wrapped": decorated(decorated(by_import)),
            "lambda": lambda fixed, moving: middle.scaled(fixed),
            "cached": functools.lru_cache(by_import),
        }
    """,
    "middle.py": """
        from mine import far
        SCALE = 2.0

        def scaled(image):
            return far.helper(image) * SCALE
    """,
    "far.py": """
        def helper(image):
            return image + 1
    """,
}

#: Those of which no part leads to the module far.
NOT_FAR = {"constant", "static", "slots", "recursion"}

PRINT = """
    import json, sys
    from mine.methods import ALL
    from xdreg.registration.method_identity import is_installed, what_is_known
    found = {name: what_is_known(method, name) for name, method in ALL.items()}
    assert not [known.unknown for known in found.values() if known.unknown], found
    print(json.dumps({name: known.token for name, known in found.items()}))
"""


def tokens(folder, seed, **changes):
    """Return tokens of the package's methods, from a process of its own."""
    package = folder / "mine"
    package.mkdir(parents=True)
    for name, text in PACKAGE.items():
        text = textwrap.dedent(text)
        before, after = changes.get(name.removesuffix(".py"), ("", ""))
        assert before in text
        (package / name).write_text(text.replace(before, after) if before else text)
    places = [str(folder), *sys.path]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(places)}
    return subprocess.check_output(
        [sys.executable, "-c", textwrap.dedent(PRINT)],
        env=environment | {"PYTHONHASHSEED": str(seed)},
        encoding="utf-8",
    )


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    return eval(tokens(tmp_path_factory.mktemp("first"), 1))


def test_tokens_are_equal_in_every_process(first, tmp_path):
    """Nor do a comment, a blank line and a longer name of a folder count."""
    changes = {
        "methods": ("def even", "# a comment\n\n\ndef even"),
        "middle": ("def scaled(image):\n", "\n\ndef scaled(image):\n\n    # more\n"),
    }
    assert eval(tokens(tmp_path / "elsewhere", 2, **changes)) == first


def test_a_helper_two_modules_away_counts(first, tmp_path):
    after = eval(tokens(tmp_path, 1, far=("image + 1", "image + 2")))
    assert {name for name in first if first[name] == after[name]} == NOT_FAR


def test_a_constant_of_a_module_counts(first, tmp_path):
    after = eval(tokens(tmp_path, 1, middle=("SCALE = 2.0", "SCALE = 2.5")))
    assert {n for n in first if first[n] == after[n]} == NOT_FAR - {"recursion"}


def token(value):
    known = what_is_known(value, "it")
    assert not known.unknown
    return known.token


def closure(value):
    return lambda fixed, moving: value


def default(value):
    def method(fixed, moving, value=value, *, other=value):
        return value

    return method


class Holder:
    def __init__(self, value):
        self.value = value

    def method(self, fixed, moving):
        return self.value

    def __call__(self, fixed, moving):
        return self.value

    def __repr__(self):
        return "always the same"


def attribute(value):
    def method(fixed, moving):
        return method.value

    method.value = value
    return method


def in_global(value):
    space = {"VALUE": value, "__name__": "mine"}
    exec("def method(fixed, moving):\n    return VALUE", space)
    return space["method"]


def in_module(value):
    module = types.ModuleType("own")
    module.inner = types.ModuleType("own.inner")
    module.inner.own, module.inner.VALUE = module, value
    space = {"own": module}
    exec("def method(fixed, moving):\n    return own.inner.VALUE", space)
    return space["method"]


def made_class(value):
    return type("Made", (Holder,), {"table": value, "__call__": Holder.method})(None)


class Colour(enum.IntEnum):
    RED = 1
    BLUE = 2


WAYS = [
    closure,
    default,
    Holder,
    lambda value: Holder(value).method,
    attribute,
    in_global,
    in_module,
    made_class,
    lambda value: functools.partial(closure, value),
    lambda value: functools.wraps(token)(closure(value)),
    lambda value: closure(Holder([value])),
    lambda value: functools.lru_cache(closure(value)),
]

VALUES = [
    (2.0, 1.9),
    (np.arange(5000), np.arange(5000) // 2),
    ([1, [2, 3]], [1, [2, 4]]),
    ({"a": {"b", "c"}}, {"a": {"b", "d"}}),
    (Colour.RED, Colour.BLUE),
    (np.float32(1), np.float64(1)),
    (np.array(["a", {"b": 1}], object), np.array(["a", {"b": 2}], object)),
    (np.random.default_rng(1), np.random.default_rng(2)),
    (np.ma.masked_array([1, 2], [0, 1]), np.ma.masked_array([1, 2], [1, 0])),
    (lambda a: a + 1, lambda a: a + 2),
    (np.add, np.subtract),
    (scipy.special.expit, scipy.special.erf),
]


@pytest.mark.parametrize("way", WAYS)
def test_every_surrounding_counts(way):
    for one, other in VALUES:
        assert token(way(one)) == token(way(one))
        assert token(way(one)) != token(way(other))


def test_code_without_source_counts():
    def typed(text):
        space = {}
        exec(compile(text, "<input>", "exec"), space)
        return space["method"]

    one = typed("def method(fixed, moving):\n    return fixed")
    spaced = typed("# more\n\ndef method(fixed, moving):\n\n    return fixed")
    assert token(one) == token(spaced)
    assert token(one) != token(typed("def method(fixed, moving):\n    return moving"))


def test_compiled_functions():
    def jitted(step):
        return numba.njit(lambda a: a + step)

    one = jitted(1)
    before = token(one)
    assert one(2) == 3
    assert token(one) == before == token(jitted(1))
    assert before != token(jitted(2))
    assert token(np.add) != token(np.subtract)
    assert token(len) != token(max)
    assert token([1].append) != token([2].append)


def test_installed_packages_are_not_walked(monkeypatch):
    scipy = pytest.importorskip("scipy.ndimage")
    before = token(scipy.gaussian_filter)
    monkeypatch.setattr(scipy, "gaussian_filter1d", None)
    assert token(scipy.gaussian_filter) == before


def test_modules_that_load_lazily_and_those_that_are_absent():
    def uses(fixed, moving):
        try:
            import no_such_package
        except ImportError:
            no_such_package = None
        return itk.median_image_filter(fixed), no_such_package

    before = token(uses)
    itk.imread  # noqa: B018 - loads more of it
    assert token(uses) == before


def test_what_has_no_content_is_known():
    known = {token(closure(v)) for v in (threading.Lock(), threading.Event())}
    assert len(known) == 2
    log = logging.getLogger("one"), logging.getLogger("other")
    assert token(closure(log[0])) != token(closure(log[1]))


def test_a_loop_of_references_ends():
    ring = [1]
    ring.append({"ring": ring, "holder": Holder(ring)})
    other = [2]
    other.append({"ring": other, "holder": Holder(other)})
    assert token(closure(ring)) != token(closure(other))


class Handle:
    def __reduce__(self):
        msg = "it is on a device"
        raise TypeError(msg)


def nested(depth):
    value = None
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (Handle(), "'value' of closure.<locals>.<lambda>"),
        (Holder({"net": Handle()}), "'net' in 'value' in"),
        ((number for number in range(3)), "generator"),
        (nested(10**4), "nested too deeply"),
        (np.frompyfunc(lambda a: a + 1, 1, 1), "(ufunc)"),
        (np.frompyfunc(np.add, 2, 1), "(ufunc)"),
        (threading.local(), "(_local)"),
        (type("Own", (threading.local,), {})(), "(Own)"),
        (LocalStore("somewhere"), "(LocalStore)"),
        (tensorstore.array([1, 2]), "(TensorStore)"),
    ],
)
def test_what_cannot_be_known_is_named(value, named):
    known = what_is_known(closure(value), "it")
    assert any(named in text for text in known.unknown), known.unknown


def test_a_work_directory_asks_for_a_version(tmp_path):
    import xdreg
    from tests.helpers.hostile import shift

    fixed, moving = shifted_pair()
    handle = Handle()

    def method(fixed, moving):
        return shift(fixed, moving, voxels=2.0 if handle else 1.0)

    def run(where=None, **more):
        stage = xdreg.Custom(method=method, level=0, isolated=False, **more)
        options = {"block_shape": 24, "metric": "ncc", "progress": False}
        return fixed.dreg.register(moving, stages=[stage], workdir=where, **options)

    run()
    with pytest.raises(xdreg.InputError, match=r"uses 'handle' of .*method.*version="):
        run(tmp_path)
    run(tmp_path, version="1")
    run(tmp_path, version="1")
    with pytest.raises(xdreg.InputError, match="What differs: stage 0"):
        run(tmp_path, version="2")
    with pytest.raises(xdreg.InputError, match="version must be text"):
        run(version=2)


def test_the_order_of_steps_counts():
    one, other = {"add": 1, "times": 2}, {"times": 2, "add": 1}
    tokens = {what_is_known(closure(value), "it").token for value in (one, other)}
    assert len(tokens) == 2
    attributes = types.SimpleNamespace(a=1, b=2), types.SimpleNamespace(b=2, a=1)
    assert len({what_is_known(value, "it").token for value in attributes}) == 1


@pytest.mark.parametrize("name", ["settings_of_mine", "chunk"])
def test_a_module_that_is_handed_on_counts_whole(name, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, name, raising=False)
    is_installed.cache_clear()
    (tmp_path / f"{name}.py").write_text("SCALE = 2.0\n")
    module = importlib.import_module(name)
    before = what_is_known(closure(module), "it").token
    assert what_is_known(closure(module), "it").token == before
    module.SCALE = 1.9
    assert what_is_known(closure(module), "it").token != before
    monkeypatch.delitem(sys.modules, name)
    is_installed.cache_clear()


STORED = [
    lambda folder: zarr.open_array(folder / "a", mode="r"),
    lambda folder: zarr.open_group(folder, mode="r"),
    lambda folder: dask.array.from_zarr(folder / "a"),
    lambda folder: dask.array.from_zarr(folder / "a") + 1,
    lambda folder: xr.DataArray(dask.array.from_zarr(folder / "a"), dims=("y", "x")),
    lambda folder: xr.open_zarr(folder, consolidated=False, chunks={}),
    lambda folder: xr.open_zarr(folder, consolidated=False, chunks=None)["a"],
]


@pytest.mark.parametrize("way", STORED)
def test_voxels_of_stores_count(way, tmp_path):
    folder = tmp_path / "store.zarr"
    group = zarr.create_group(folder)
    data = np.arange(12.0).reshape(3, 4)
    array = group.create_array("a", data=data, dimension_names=("y", "x"))

    def now():
        return token(closure(way(folder)))

    before = now()
    assert now() == before
    array[0, 0] = 7
    assert now() != before


def test_metadata_of_a_dataclass_count():
    def made(limit):
        @dataclasses.dataclass
        class Options:
            step: float = dataclasses.field(default=1.0, metadata={"limit": limit})

        return Options()

    assert token(made(1)) == token(made(1)) != token(made(2))
