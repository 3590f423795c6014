"""The accessors: every method calls a public function and looks like it."""

import ast
import inspect
import typing
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import xdreg
from xdreg.accessor import FieldAccessor, ImageAccessor, _Method
from xdreg.fields.store import save_field
from xdreg.registration.planned_methods import PlannedBSpline
from xdreg.registration.planned_stage import PlannedStage
from xdreg.stores.ome_writer import write_ome_zarr
from xdreg.views.napari_plugin import view

#: Functions whose names differ from those of their methods.
OTHERS = {
    (ImageAccessor, "to_ome_zarr"): write_ome_zarr,
    (FieldAccessor, "to_ome_zarr"): save_field,
    (FieldAccessor, "to_file"): xdreg.write_transform,
    (FieldAccessor, "to_grid"): xdreg.bridges.to_grid,
    (FieldAccessor, "to_itk_transform"): xdreg.bridges.to_itk_transform,
    (FieldAccessor, "plot"): xdreg.plot.overview,
    (FieldAccessor, "view"): view,
}

METHODS = [
    (accessor, name)
    for accessor in (ImageAccessor, FieldAccessor)
    for name, value in vars(accessor).items()
    if isinstance(value, _Method)
]


def image():
    coordinates = {dim: np.arange(12.0) for dim in "yx"}
    return xr.DataArray(np.zeros((12, 12)), coordinates, ("y", "x"), "image")


@pytest.mark.parametrize(("accessor", "name"), METHODS)
def test_a_method_has_the_signature_and_the_docstring_of_its_function(accessor, name):
    function = OTHERS.get((accessor, name)) or getattr(xdreg, name)
    data = image() if accessor is ImageAccessor else xr.Dataset()
    method = getattr(data.dreg, name)
    assert inspect.getdoc(method) == inspect.getdoc(function)
    first, *others = inspect.signature(function).parameters.values()
    if first.kind is first.VAR_POSITIONAL:
        others = [first, *others]
    assert list(inspect.signature(method).parameters.values()) == others
    # As help of the class has it.
    own = list(inspect.signature(getattr(accessor, name)).parameters)
    assert own == ["self", *(p.name for p in others)]


def test_a_method_passes_its_object_and_the_arguments(monkeypatch):
    calls = []
    monkeypatch.setattr(
        "xdreg.fields.warp.warp", lambda *args, **options: calls.append((args, options))
    )
    field = xr.Dataset()
    field.dreg.warp("moving", order=3)
    (((first, second), options),) = calls
    assert first is field
    assert (second, options) == ("moving", {"order": 3})


def test_an_unknown_option_is_an_error_that_names_it():
    with pytest.raises(TypeError, match="blok"):
        image().dreg.register(image(), blok=3)


def test_the_tree_of_an_image_is_converted_at_its_finest_level(tmp_path):
    xdreg.save(image(), tmp_path / "a.ome.zarr", levels=2)
    tree = xdreg.open_ome_zarr(tmp_path / "a.ome.zarr")
    tree.dreg.to_ome_zarr(tmp_path / "b.ome.zarr", levels=1)
    again = xdreg.open_ome_zarr(tmp_path / "b.ome.zarr")
    assert again["scale0/image"].shape == (12, 12)
    assert "levels  12 × 12, 6 × 6" in repr(tree.dreg)


def test_an_image_shows_itself():
    text = repr(image().dreg)
    assert "12 × 12 voxels of 1 × 1" in text
    assert "float64" in text
    assert repr(xr.DataArray(3).dreg).startswith("xdreg: ")


def test_methods_of_the_other_kind_say_what_the_object_is():
    dataset = image().to_dataset()
    with pytest.raises(
        AttributeError, match=r"variables \['image'\].*dataset\['image'\]"
    ):
        dataset.dreg.register(image())
    with pytest.raises(AttributeError, match="method of images"):
        xr.Dataset({"table": ("row", [1, 2])}).dreg.plan(image())
    with pytest.raises(
        AttributeError, match=r"method of displacement fields.*DataArray"
    ):
        image().dreg.warp(image())
    with pytest.raises(AttributeError, match="has no attribute 'regster'"):
        image().dreg.regster  # noqa: B018
    assert not hasattr(dataset.dreg, "_repr_mimebundle_")


def test_plan_takes_what_register_takes():
    plan, register = (inspect.signature(f) for f in (xdreg.plan, xdreg.register))
    assert list(plan.parameters.values()) == list(register.parameters.values())
    assert list(inspect.signature(image().dreg.plan).parameters) == [
        name for name in register.parameters if name != "fixed"
    ]


def test_plan_refuses_what_register_refuses(tmp_path):
    moving = image()
    for options, message in (
        ({"channel": "dapi"}, "channel"),
        ({"fixed_mask": moving}, "zero everywhere"),
        ({"retry": "crashed"}, "workdir"),
        ({"fresh": True}, "workdir"),
    ):
        with pytest.raises(xdreg.InputError, match=message):
            image().dreg.plan(moving, **options)
    made = image().dreg.plan(moving, workdir=tmp_path / "run", progress=False)
    assert len(made.stages) == 2
    assert not list(tmp_path.iterdir())


def test_defaults_that_the_docstring_states():
    text = " ".join(inspect.getdoc(xdreg.register).split())
    own, spline = PlannedStage, PlannedBSpline
    shapes = own.default_block_shape, spline.default_block_shape
    assert "192 in 3-D and 1024 in 2-D, for `BSpline` 64 and 1024" in text
    assert [(s[3], s[2]) for s in shapes] == [(192, 1024), (64, 1024)]
    assert "8 in 3-D and 32 in 2-D, for `BSpline` 16" in text
    overlaps = own.default_overlap, spline.default_overlap
    assert [(o[3], o[2]) for o in overlaps] == [(8, 32), (16, 16)]


def test_type_checkers_know_the_parameters_of_open_ome_zarr():
    tree = ast.parse(Path(xdreg.__file__).read_text(encoding="utf-8"))
    stated = [
        ast.unparse(node.args)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
        and node.name == "open_ome_zarr"
        and node.decorator_list
    ]
    overloads = typing.get_overloads(xdreg.open_ome_zarr)
    signatures = [inspect.signature(f, eval_str=False) for f in overloads]
    wanted = [
        str(s).rpartition(" -> ")[0][1:-1].replace("'", "").replace(" = ", "=")
        for s in signatures
    ]
    assert stated == wanted
