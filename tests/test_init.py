"""The public names of the package."""

import inspect
import subprocess
import sys
from types import ModuleType

import pytest

import xdreg


def test_the_public_names_are_listed_once():
    assert dir(xdreg) == sorted(xdreg.__all__)
    assert len(set(xdreg.__all__)) == len(xdreg.__all__)


@pytest.mark.parametrize("name", sorted(xdreg.__all__))
def test_a_public_name_exists_and_is_documented(name):
    value = getattr(xdreg, name)
    if name == "__version__":
        assert isinstance(value, str)
        return
    if isinstance(value, ModuleType):
        assert value.__name__ == f"xdreg.{name}"
    else:
        assert value.__name__ == name
        assert value.__module__.startswith("xdreg.")
    assert inspect.getdoc(value)


def test_other_names_are_errors():
    with pytest.raises(AttributeError, match="has no attribute 'registr'"):
        xdreg.registr  # noqa: B018


def test_import_loads_no_slow_library():
    code = "import sys, xdreg; print(*{m.split('.')[0] for m in sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    )
    slow = {"itk", "matplotlib", "napari", "numba", "ngff_zarr", "distributed"}
    assert slow.isdisjoint(done.stdout.split())
