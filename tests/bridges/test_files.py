"""Transform files: formats by suffix, units, and what is refused."""

import os

import numpy as np
import pytest

import xdreg
from tests.helpers.fields import Known, difference
from tests.helpers.matrices import TURN
from xdreg.fields.composition import compose
from xdreg.fields.displacement import make_field
from xdreg.fields.field import field_grid
from xdreg.grid import Grid


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("suffix", [".nrrd", ".mha", ".nii", ".nii.gz", ".h5", ".tfm"])
def test_files_of_itk_are_in_millimetres_and_come_back(tmp_path, suffix, ndim):
    field = Known(ndim, 5.0).field
    path = tmp_path / f"warp{suffix}"
    field.dreg.to_file(path)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    raw = xdreg.open_transform(path)
    grid = field_grid(raw)
    assert grid.units == "millimeter"
    np.testing.assert_allclose(
        grid.spacing, np.multiply(field_grid(field).spacing, 1e-3), rtol=1e-6
    )
    again = xdreg.open_transform(path, like=field)
    assert difference(again, field) < 1e-4


def test_nanometres_are_not_lost_in_single_precision(tmp_path):
    grid = Grid(
        ("z", "y", "x"), (3, 4, 5), (40.0, 4.0, 4.0), (1e6, 2e6, 3e6), "nanometer"
    )
    values = np.full((3, 3, 4, 5), 2.5, np.float32)
    field = make_field(values, grid)
    for name in ("a.nrrd", "a.nii.gz", "a.h5"):
        field.dreg.to_file(tmp_path / name)
        raw = field_grid(xdreg.open_transform(tmp_path / name))
        found = raw.to_units("nanometer")
        np.testing.assert_allclose(found.spacing, grid.spacing, rtol=1e-6)
        np.testing.assert_allclose(found.origin, grid.origin, atol=0.2)
        again = xdreg.open_transform(tmp_path / name, like=field)
        np.testing.assert_allclose(again.displacement, values, rtol=1e-5)


def test_units_are_asked_for_and_never_guessed(tmp_path):
    field = Known(2).field
    field.dreg.to_file(tmp_path / "um.nrrd", units="micrometer")
    as_millimetres = xdreg.open_transform(tmp_path / "um.nrrd")
    assert field_grid(as_millimetres).spacing == field_grid(field).spacing
    right = xdreg.open_transform(tmp_path / "um.nrrd", units="micrometer", like=field)
    assert difference(right, field) < 1e-5
    pixels = make_field(np.ones((2, 3, 4), np.float32), Grid(
        ("y", "x"), (3, 4), (1.0, 1.0), (0.0, 0.0)))  # fmt: skip
    pixels.dreg.to_file(tmp_path / "pixels.nrrd")
    back = xdreg.open_transform(tmp_path / "pixels.nrrd")
    np.testing.assert_array_equal(back.displacement, pixels.displacement)
    with pytest.raises(xdreg.InputError, match="do not convert"):
        pixels.dreg.to_file(tmp_path / "more.nrrd", units="micrometer")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("a.png", {}, "no suffix of a transform file"),
        ("a.mat", {}, "read, not written"),
        ("a.nrrd", {"affine": True}, "displacements only"),
        ("a.h5", {"inverse": True}, "holds one transform"),
        ("s3://bucket/a.h5", {}, "is a URL"),
    ],
)
def test_what_a_format_cannot_hold_is_refused(tmp_path, name, options, message):
    field = Known(2).field
    if options.get("inverse"):
        options = {"inverse": field}
    path = name if "://" in name else tmp_path / name
    with pytest.raises(xdreg.InputError, match=message):
        field.dreg.to_file(path, **options)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("none.h5", None, "does not exist"),
        ("a.tfm", "nothing", "cannot read"),
        ("a.nrrd", "nothing", "cannot read"),
        ("a.txt", "nothing", "cannot read"),
        ("a.txt", '(Transform "Odd")\n(FixedImageDimension 3)', "holds a Odd"),
        ("a.txt", '(Transform "Odd")\n(FixedImageDimension x)', "FixedImageDimension"),
        (
            "a.txt",
            "(Transform )\n(InitialTransformParameterFileName )\n"
            "(FixedImageDimension 3)",
            "transform without a name",
        ),
    ],
)
def test_what_cannot_be_read_is_said(tmp_path, name, text, message):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(xdreg.XdregError, match=message):
        xdreg.open_transform(tmp_path / name)


def test_nothing_is_replaced_unless_asked_for(tmp_path):
    field = Known(2).field
    field.dreg.to_file(tmp_path / "a.nrrd")
    before = (tmp_path / "a.nrrd").read_bytes()
    with pytest.raises(xdreg.StoreError, match="overwrite"):
        compose(field, TURN).dreg.to_file(tmp_path / "a.nrrd")
    assert (tmp_path / "a.nrrd").read_bytes() == before
    compose(field, TURN).dreg.to_file(tmp_path / "a.nrrd", overwrite=True)
    assert (tmp_path / "a.nrrd").read_bytes() != before
    field.dreg.to_file(tmp_path / "none" / "yet" / "a.nrrd")
    assert [path.name for path in (tmp_path / "none" / "yet").iterdir()] == ["a.nrrd"]
    with pytest.raises(xdreg.StoreError, match=r"a\.nrrd is no folder"):
        field.dreg.to_file(tmp_path / "a.nrrd" / "b" / "c.nrrd")


@pytest.mark.parametrize("suffix", ["txt", "h5", "nii.gz", "nrrd", "mat"])
def test_a_pipe_is_not_waited_for(tmp_path, suffix):
    path = tmp_path / f"warp.{suffix}"
    os.mkfifo(path)
    with pytest.raises(xdreg.StoreError, match="a pipe"):
        xdreg.open_transform(path)


def test_a_pipe_in_a_store_of_bigwarp_is_not_waited_for(tmp_path):
    (tmp_path / "a.n5" / "dfield").mkdir(parents=True)
    os.mkfifo(tmp_path / "a.n5" / "dfield" / "attributes.json")
    with pytest.raises(xdreg.StoreError, match="no dataset"):
        xdreg.open_transform(tmp_path / "a.n5")
