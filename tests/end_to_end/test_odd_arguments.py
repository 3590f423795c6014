"""Arguments of odd types: accepted, or an `XdregError`."""

import dataclasses

import itk
import numpy as np
import pytest

import xdreg
from tests.helpers.pairs import never, noise, zero_field

IMAGE, FIELD = noise(), zero_field((2, 2))
ODD = [
    *(5, -1, 3.5, float("nan"), 10**400, True, None, np.int64(3)),
    *("x", "a\0b", b"x", [], {}, ("a",), object(), np.zeros(3), never),
]
REGISTER = [
    *("stages", "metric", "block_shape", "overlap", "fixed_mask", "moving_mask"),
    *("initial", "channel", "moving_channel"),
]
GRID = {
    "dims": ("y", "x"),
    "shape": (2, 2),
    "spacing": (1.0, 1.0),
    "origin": (0.0, 0.0),
    "units": None,
}


def register(**options):
    given = {"stages": [never], "metric": "lncc"} | options
    return xdreg.register(IMAGE, IMAGE, progress=False, compute=False, **given)


def with_units(units):
    coords = {
        d: (d, np.arange(float(n)), {"units": units}) for d, n in IMAGE.sizes.items()
    }
    one = IMAGE.assign_coords(coords)
    return xdreg.register(one, one, stages=[never], progress=False, compute=False)


def stage(kind, name):
    return lambda odd: register(stages=[kind(**{name: odd})])


CALLS = {
    **{name: lambda odd, name=name: register(**{name: odd}) for name in REGISTER},
    "fixed": lambda odd: xdreg.register(odd, IMAGE, progress=False, compute=False),
    "moving": lambda odd: xdreg.register(IMAGE, odd, progress=False, compute=False),
    "open_image": xdreg.open_image,
    "open_ome_zarr": xdreg.open_ome_zarr,
    "open_field": xdreg.open_field,
    "storage_options": lambda odd: xdreg.open_ome_zarr(
        "memory://nothing", storage_options=odd
    ),
    "from_itk_image": xdreg.from_itk_image,
    "to_itk_image": xdreg.to_itk_image,
    "transform": lambda odd: xdreg.from_itk_transform(odd, IMAGE),
    "grid": lambda odd: xdreg.from_itk_transform(
        itk.TranslationTransform[itk.D, 2].New(), odd
    ),
    "warp field": lambda odd: xdreg.warp(odd, IMAGE),
    "warp moving": lambda odd: xdreg.warp(FIELD, odd),
    **{
        f"warp {name}": lambda odd, name=name: xdreg.warp(
            FIELD, IMAGE, **{name: odd}
        ).compute()
        for name in ("order", "like", "fill_value")
    },
    "points field": lambda odd: xdreg.transform_points(odd, [[1.0, 1.0]]),
    "points": lambda odd: xdreg.transform_points(FIELD, odd),
    "jacobian": xdreg.jacobian_determinant,
    "plot field": lambda odd: xdreg.plot.before_after(odd, IMAGE, IMAGE),
    "plot fixed": lambda odd: xdreg.plot.before_after(FIELD, odd, IMAGE),
    **{
        f"{kind.__name__} {option.name}": stage(kind, option.name)
        for kind in (xdreg.LocalCorrelation, xdreg.BSpline, xdreg.Affine)
        for option in dataclasses.fields(kind)
    },
    "method": lambda odd: register(stages=[xdreg.Custom(method=odd)]),
    "options": lambda odd: register(stages=[xdreg.Custom(method=never, options=odd)]),
    **{
        f"Grid {name}": lambda odd, name=name: xdreg.Grid(**GRID | {name: odd})
        for name in GRID
    },
    **{
        f"Grid {name} axis": lambda odd, name=name: xdreg.Grid(
            **GRID | {name: (odd, odd)}
        )
        for name in ("dims", "shape", "spacing", "origin")
    },
    "units": with_units,
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("odd", ODD, ids=lambda odd: repr(odd)[:12])
def test_odd_arguments_end_in_one_clear_error(name, odd):
    try:
        CALLS[name](odd)
    except xdreg.XdregError as error:
        assert str(error)


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: repr(odd)[:12])
def test_odd_outputs(odd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    calls = [lambda data=data: xdreg.save(data, odd) for data in (IMAGE, FIELD)]
    calls += [
        lambda: xdreg.save(odd, tmp_path / "odd.zarr"),
        lambda: register(workdir=odd),
    ]
    calls += [
        lambda name=name: xdreg.save(IMAGE, tmp_path / f"{name}.zarr", **{name: odd})
        for name in ("version", "levels", "chunks", "name")
    ]
    for call in calls:
        try:
            call()
        except xdreg.XdregError as error:
            assert str(error)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: register(workdir=5), "workdir must be a path .*, got 5"),
        (lambda: register(workdir="s3://b/run"), "workdir must be a local"),
        (lambda: xdreg.open_image(None), "path must be a path .*, got None"),
        (lambda: register(stages=5), "a stage must be .*; got 5"),
        (lambda: xdreg.warp("field.zarr", IMAGE), "a field is a Dataset .*, got str"),
        (lambda: with_units(7), "a unit of length must be text .*, got 7"),
    ],
)
def test_the_error_says_what_is_expected_and_what_came(call, text):
    with pytest.raises(xdreg.InputError, match=text):
        call()
