"""Bad input: one clear error before any block runs."""

import numpy as np
import pytest
import xarray as xr

import xdreg
from tests.helpers.pairs import never, noise, zero_field

GOOD = noise()
COLOURS = xr.concat([GOOD] * 3, "c")


@pytest.mark.parametrize(
    ("fixed", "moving", "options", "text"),
    [
        (GOOD, noise((20, 40, 48)), {}, "spatial dimensions"),
        (GOOD, noise(units="second"), {}, "do not convert"),
        (GOOD, noise(units=None), {}, "do not convert"),
        (GOOD, noise(units="meter"), {}, "Is the unit of one of them wrong"),
        (GOOD * 0 + 3, GOOD, {}, "fixed holds one and the same value"),
        (GOOD, GOOD * np.nan, {}, "moving holds no finite value"),
        (GOOD.astype(float) * 1e300, GOOD, {}, "fixed .* single precision cannot"),
        (GOOD, (GOOD * 9).astype("u8") + 2**60, {}, "moving .* single precision"),
        (GOOD.astype(float) + 1e15, GOOD, {}, "single precision cannot tell apart"),
        (GOOD.astype(float) * -1e200, GOOD, {}, "single precision cannot tell apart"),
        (GOOD, GOOD, {"initial": np.eye(3) + 1j}, "initial must be"),
        (GOOD.isel(x=slice(None, None, -1)), GOOD, {}, "descends"),
        (GOOD, GOOD.drop_vars("x"), {}, "no coordinate 'x'"),
        (GOOD, "moving.zarr", {}, "xdreg.open_ome_zarr"),
        (GOOD, GOOD.astype(complex), {}, "dtype complex"),
        (GOOD, xr.concat([GOOD, GOOD], "c"), {}, "2 channels"),
        (GOOD, GOOD, {"channel": 1}, "no channel axis"),
        (GOOD, GOOD, {"channel": "luminance"}, "no channel axis"),
        (GOOD, COLOURS, {}, "'luminance' of an RGB image"),
        (
            GOOD,
            xr.concat([GOOD] * 2, "c"),
            {"moving_channel": "luminance"},
            "RGBA image, and moving has 2 channels",
        ),
        (
            GOOD,
            COLOURS.assign_coords(c=["dapi", "gfp", "rfp"]),
            {"moving_channel": "luminance"},
            "named .*'gfp'",
        ),
        (GOOD, GOOD, {"channel": "all"}, "no channel axis"),
        (COLOURS, COLOURS, {"channel": []}, "names no channel"),
        (COLOURS, COLOURS, {"channel": [0, 0]}, "twice"),
        (COLOURS, GOOD, {"channel": "all"}, "3 channels of fixed .* with 1 of"),
        (
            COLOURS,
            COLOURS,
            {"channel": "all", "stages": [xdreg.BSpline()]},
            "bspline takes one channel",
        ),
        (
            COLOURS,
            COLOURS,
            {"channel": [0, 1], "stages": [xdreg.Affine()]},
            "linear stages take one channel",
        ),
        (
            GOOD,
            GOOD,
            {"fixed_mask": noise((20, 24)) > 0.5},
            "must cover its image",
        ),
        (GOOD, GOOD, {"metric": "nmi"}, "metric must be one of"),
        (GOOD, GOOD, {"block_shape": 0}, "block_shape must be"),
        (GOOD, GOOD, {"block_shape": 20, "overlap": 15}, "more than half"),
        (GOOD, GOOD, {"stages": []}, "stages is empty"),
        (GOOD, GOOD, {"stages": ["afine"]}, "a stage must be"),
        (GOOD, GOOD, {"stages": [xdreg.Affine(level=9)]}, "asks for level 9"),
        (GOOD, GOOD, {"initial": np.eye(4)}, r"matrix of shape \(4, 4\)"),
        (GOOD, GOOD, {"initial": "start.tfm"}, "initial must be"),
        (GOOD, GOOD, {"initial": np.diag([0.0, 1.0, 1.0])}, "invertible"),
        (GOOD, GOOD, {"initial": [[1, 0, 0], [0, 1, 0], [0.1, 0, 1]]}, "last row"),
        (GOOD, GOOD, {"initial": zero_field((2, 2, 2))}, "initial is a field on"),
        (GOOD, GOOD, {"initial": zero_field((2, 2)) * np.nan}, "NaN or infinity"),
        (
            GOOD,
            noise(origin=1e4),
            {"initial": np.eye(3)},
            "initial maps fixed to",
        ),
        (GOOD, GOOD, {"fixed_mask": GOOD < -1}, "fixed_mask is zero everywhere"),
        (
            GOOD,
            GOOD,
            {"moving_mask": noise(origin=1.0) > 0},
            "must cover its image",
        ),
        (
            GOOD,
            GOOD,
            {"stages": xdreg.LocalCorrelation(radius=(1.0, 2.0, 3.0))},
            "radius of LocalCorrelation must be one number or 2",
        ),
        (GOOD, noise(units=None), {}, "^moving: lengths in no unit"),
        (GOOD, noise((4, 40, 48), units=None), {}, "spatial dimensions"),
        (GOOD, GOOD, {"channel": 0.5}, "no channel"),
    ],
)
def test_bad_arguments(fixed, moving, options, text):
    options = {"stages": [never]} | options
    with pytest.raises(xdreg.XdregError, match=text):
        xdreg.register(fixed, moving, progress=False, **options)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: xdreg.BSpline(grid_spacing=0), "grid_spacing"),
        (lambda: xdreg.BSpline(level=-1), "level must be"),
        (lambda: xdreg.Affine(iterations=1.5), "iterations"),
        (lambda: xdreg.Custom(method=3), "method must be"),
        (lambda: xdreg.Custom(method=never, iterations=5), "would not reach"),
    ],
)
def test_bad_stages(make, text):
    with pytest.raises(xdreg.InputError, match=text):
        make()


def test_values_that_are_not_finite_are_masked_and_said():
    fixed = noise()
    fixed[5:9, 5:9] = np.nan

    def check(fixed, moving):
        assert np.isfinite(fixed).all()
        assert not fixed.mask[5:9, 5:9].any()
        assert fixed.mask[20:, 20:].all()
        grid_shape = (2, *fixed.shape)
        return xr.DataArray(
            np.zeros(grid_shape, np.float32),
            dims=("component", "y", "x"),
            coords={d: fixed[d] for d in "yx"},
        )

    with pytest.warns(UserWarning, match="not finite"):
        field = fixed.dreg.register(noise(seed=1), stages=[check], progress=False)
    assert (field.block_status == 0).all()


@pytest.mark.parametrize(
    "dtype",
    ["bool", "int8", "uint8", ">u2", "int16", "uint32", "int64", ">f4", "float64"],
)
def test_every_width_of_numbers_is_read(dtype):
    fixed = (noise() * 100 > 50 if dtype == "bool" else noise() * 100).astype(dtype)

    def same(fixed, moving):
        assert fixed.dtype == np.float32
        return xr.DataArray(
            np.zeros((2, *fixed.shape), np.float32),
            dims=("component", "y", "x"),
            coords={d: fixed[d] for d in "yx"},
        )

    field = fixed.dreg.register(fixed, stages=[same], progress=False)
    assert (field.block_status == 0).all()


def test_units_that_convert_are_converted():
    fixed = noise(units="micrometer")
    moving = fixed.copy()
    for dim in fixed.dims:
        moving = moving.assign_coords({dim: fixed[dim].values / 1000})
        moving[dim].attrs["units"] = "millimeter"

    def same(fixed, moving):
        np.testing.assert_allclose(
            moving.values[2:-2, 2:-2], fixed.values[2:-2, 2:-2], atol=1e-4
        )
        return xr.DataArray(
            np.zeros((2, *fixed.shape), np.float32),
            dims=("component", "y", "x"),
            coords={d: fixed[d] for d in "yx"},
        )

    field = fixed.dreg.register(moving, stages=[same], progress=False)
    assert field.displacement.attrs["units"] == "micrometer"
    assert (field.block_status == 0).all()


def test_a_mask_brought_to_its_image_as_the_error_says():
    small = noise((20, 48)) > -1
    with pytest.raises(xdreg.InputError) as caught:
        xdreg.register(GOOD, GOOD, fixed_mask=small, stages=never, progress=False)
    assert "astype('float32').interp_like(fixed, method='nearest')" in str(caught.value)
    mask = small.astype("float32").interp_like(GOOD, method="nearest")

    def check(fixed, moving):
        assert fixed.mask[:20].all()
        assert not fixed.mask[20:].any()
        return xr.DataArray(np.zeros((2, 40, 48)), dims=("component", "y", "x"))

    # NaN counts as background. A result of the window's shape needs no coordinates.
    for given in (mask, mask.fillna(0)):
        found = xdreg.register(
            GOOD, GOOD, fixed_mask=given, stages=check, progress=False
        )
        assert (found.block_status == 0).all()


def test_a_plan_refuses_what_a_run_would():
    with pytest.raises(xdreg.InputError, match="initial must be"):
        xdreg.plan(GOOD, GOOD, initial="start.tfm")


def test_no_block_that_contributes_is_said():
    far = noise(origin=39.0)
    with pytest.warns(UserWarning, match="no block of stage 0 .* too_few_samples"):
        xdreg.register(GOOD, far, stages=[never], progress=False)
