"""The accessors: every method calls a public function."""

import inspect

import numpy as np
import pytest
import xarray as xr

import xdreg
from xdreg.accessor import FieldAccessor, ImageAccessor

#: Functions whose names differ from those of their methods.
OTHER_NAMES = {"to_ome_zarr": "save", "to_file": "write_transform", "plot": "overview"}


def place_of(name):
    """Return the address of a method's function, where the accessor looks it up."""
    function = OTHER_NAMES.get(name, name)
    if function in xdreg.bridges.__all__:
        return f"xdreg.bridges.{function}"
    value = getattr(xdreg.plot if name == "plot" else xdreg, function)
    return f"{value.__module__}.{function}"


def methods(accessor):
    """Return the public methods, each with the names of its required arguments."""
    for name, method in inspect.getmembers(accessor, inspect.isfunction):
        if not name.startswith("_"):
            _, *own = inspect.signature(method).parameters.values()
            named = (p for p in own if p.kind is p.POSITIONAL_OR_KEYWORD)
            yield name, [p.name for p in named if p.default is p.empty]


def called(monkeypatch, data, name, arguments):
    """Call a method; return the arguments that its function was called with."""
    calls = []
    monkeypatch.setattr(place_of(name), lambda *a, **_: calls.append(a))
    getattr(data.dreg, name)(*arguments)
    ((first, *rest),) = calls
    assert first is data
    return rest[: len(arguments)]


@pytest.mark.parametrize(("name", "arguments"), methods(ImageAccessor))
def test_methods_of_an_image(name, arguments, monkeypatch):
    coordinates = {dim: [0.0, 1.0] for dim in "yx"}
    image = xr.DataArray(np.zeros((2, 2)), coordinates, ("y", "x"))
    assert called(monkeypatch, image, name, arguments) == arguments


@pytest.mark.parametrize(("name", "arguments"), methods(FieldAccessor))
def test_methods_of_a_field(name, arguments, monkeypatch):
    assert called(monkeypatch, xr.Dataset(), name, arguments) == arguments
