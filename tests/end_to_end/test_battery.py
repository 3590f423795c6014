"""Generated pairs of every kind: a sane field or an `XdregError` comes of each."""

import math
import warnings

import dask
import numpy as np
import pytest
import xarray as xr
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

import xdreg
from xdreg.coordinates import coordinates, grid_of
from xdreg.fields.field import field_grid, fixed_grid
from xdreg.grid import Grid
from xdreg.partition import BlockStatus

DTYPES = [
    *("bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64"),
    *("int64", "float16", "float32", "float64", ">f4", ">i2"),
]
ODD_DTYPES = ["complex64", "object", "datetime64[s]", "U3", "float128"]
CONTENTS = [
    *["blobs"] * 11,
    *("noise", "constant", "one voxel", "edge", "extreme", "nan patch", "inf patch"),
    *("all nan", "empty half", "nan patch"),
]
MASKS = [*[None] * 9, *["auto", "full", "half"] * 2, "one voxel", "nothing", "nan"]
METHODS = [*("lncc", "mind", "ncc", "mi", "translation") * 3, "affine", "default"]
SIZES = st.sampled_from([1, 2, 3, 4, 5, 7, 8, 9, 12, 13, 16, 17, 24, 31, 33, 48, 65])
ONE = {"num_workers": 1}
#: Larger cases take longer and run the same code. Two examples below are larger.
MOST_VOXELS = 5_000
MOST_BLOCKS = 6


def shapes(ndim):
    return st.tuples(*[SIZES] * ndim).filter(lambda s: math.prod(s) <= MOST_VOXELS)


@st.composite
def cases(draw):
    """Draw what `make_image` and `run` take."""
    ndim = draw(st.sampled_from([2, 3]))
    shape = draw(shapes(ndim))
    base = 10.0 ** draw(st.sampled_from([-6, -3, -1, 0, 0, 0, 1, 3, 6]))
    ratio = draw(st.sampled_from([1.0, 1.0, 3.7, 100.0]))
    spacing = [base] * ndim
    spacing[draw(st.integers(0, ndim - 1))] *= ratio
    origin = [
        draw(st.sampled_from([0.0, 0.0, 0.0, -3.3, 1e3, 1e7, -1e7]))
        for _ in range(ndim)
    ]
    seed = draw(st.integers(0, 99))
    same = draw(st.booleans())

    def image(shape, origin, seed):
        return {
            "shape": shape,
            "spacing": tuple(spacing),
            "origin": tuple(origin),
            "dtype": draw(st.sampled_from(DTYPES * 6 + ODD_DTYPES)),
            "content": draw(st.sampled_from(CONTENTS)),
            "chunks": draw(st.sampled_from([None, 1, 7, 16, 64])),
            "kind": draw(st.sampled_from([*["range"] * 3, "float64", "float32"])),
            "seed": seed,
        }

    fixed = image(shape, origin, seed)
    if same:
        moving = image(shape, origin, seed)
    else:
        shift = draw(st.sampled_from([0.0, 0.4, -2.0, 1.0, 30.0]))
        moved = [o + shift * s for o, s in zip(origin, spacing, strict=True)]
        moving = image(draw(shapes(ndim)), moved, seed + 1)
    sizes = st.one_of(
        st.none(),
        st.sampled_from([1, 2, 3, 5, 8, 16, 30, 100]),
        st.lists(st.integers(1, 40), min_size=ndim, max_size=ndim),
    )
    block_shape = draw(sizes)
    block = block_shape if isinstance(block_shape, list) else [block_shape] * ndim
    # Many blocks take long and add nothing.
    counts = [-(-n // (b or n)) for n, b in zip(shape, block, strict=True)]
    assume(math.prod(counts) <= MOST_BLOCKS)
    method = draw(st.sampled_from(METHODS))
    # The search for the pose takes seconds in space, whatever the size.
    assume(method not in ("affine", "default") or ndim == 2 or math.prod(shape) < 500)
    return {
        "fixed": fixed,
        "moving": moving,
        "method": method,
        "block_shape": block_shape,
        "overlap": draw(st.sampled_from([*[None] * 6, 0, 1, 2, 4, 15])),
        "fixed_mask": draw(st.sampled_from(MASKS)),
        "moving_mask": draw(st.sampled_from(MASKS)),
    }


def values_of(shape, content, rng):
    """Return float64 values of about 0 to 1 with the named content."""
    place = np.indices(shape) / 6.0
    values = 0.5 + 0.25 * np.sin(place[-1] + rng.random()) * np.cos(place[0])
    values += 0.05 * rng.random(shape)
    half = tuple(slice(0, max(n // 2, 1)) for n in shape)
    first = (0,) * len(shape)
    if content == "noise":
        values = rng.random(shape)
    elif content == "constant":
        values[...] = 0.5
    elif content == "one voxel":
        values[...] = 0
        values[tuple(n // 2 for n in shape)] = 1
    elif content == "edge":
        values = (place[-1] > place[-1].mean()).astype(float)
    elif content == "nan patch":
        values[half] = np.nan
    elif content == "inf patch":
        values[half], values[first] = np.inf, -np.inf
    elif content == "all nan":
        values[...] = np.nan
    elif content == "empty half":
        values[half[0]] = 0
    return values


def make_image(*, shape, spacing, origin, dtype, content, chunks, kind, seed):
    ndim = len(shape)
    dims = ("z", "y", "x")[-ndim:]
    values = values_of(shape, content, np.random.default_rng(seed))
    kind_of = np.dtype(dtype)
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if kind_of.kind in "iu":
            limits = np.iinfo(kind_of)
            top = float(limits.max) if content == "extreme" else min(limits.max, 200)
            values = np.clip(np.nan_to_num(values) * top, limits.min, limits.max / 1.01)
        elif kind_of.kind == "b":
            values = values > 0.5
        elif kind_of.kind == "f" and content == "extreme":
            values = values * float(min(np.finfo(kind_of).max, 1e300))
        data = np.nan_to_num(values) if kind_of.kind in "MU" else values
        data = data.astype(int) if kind_of.kind == "M" else data
        data = data.astype(dtype)
    grid = Grid(dims, shape, spacing, origin, "micrometer")
    coords = coordinates(grid)
    image = xr.DataArray(data, dims=dims, coords=coords)
    if kind != "range":
        for axis, dim in enumerate(dims):
            numbers = origin[axis] + spacing[axis] * np.arange(shape[axis])
            image = image.drop_vars(dim).assign_coords({dim: numbers.astype(kind)})
            image[dim].attrs |= {"units": "micrometer", "spacing": spacing[axis]}
    return image if chunks is None else image.chunk(chunks)


def make_mask(kind, image):
    if kind in (None, "auto"):
        return kind
    values = np.full(image.shape, np.float32(kind == "full"))
    if kind == "half":
        values[..., : max(image.shape[-1] // 2, 1)] = 1
    elif kind == "one voxel":
        values[tuple(n // 2 for n in image.shape)] = 1
    elif kind == "nan":
        values[...] = np.nan
    return image.copy(data=values)


def noisy(fixed, moving, *, voxels):
    """Return noise of some voxels: a method that found nothing."""
    spacing = np.array(grid_of(fixed).spacing)
    rng = np.random.default_rng(int(np.prod(fixed.shape)))
    noise = voxels * rng.standard_normal((fixed.ndim, *fixed.shape))
    noise *= spacing.reshape((-1,) + (1,) * fixed.ndim)
    return xr.DataArray(noise, dims=("component", *fixed.dims))


def stages_of(method):
    if method == "default":
        return None
    if method in ("ncc", "mi"):
        voxels = 0.3 if method == "ncc" else 1e4
        return [xdreg.Custom(method=noisy, options={"voxels": voxels}, metric=method)]
    if method in ("lncc", "mind"):
        return [xdreg.LocalCorrelation(level=0, metric=method, iterations=5)]
    if method == "bspline":
        return [xdreg.BSpline(level=0, iterations=5)]
    if method == "affine":
        # Chooses a metric, which takes longer than the rest.
        return [xdreg.Affine(iterations=5)]
    return [xdreg.Translation(iterations=5, metric="lncc")]


def run(case):
    """Register; return the checked field, or the text of the error."""
    try:
        # Origins are refused that are too far away for the spacing.
        fixed, moving = make_image(**case["fixed"]), make_image(**case["moving"])
        # Each process that is used at once loads Elastix, in 20 s.
        with dask.config.set(ONE if case["method"] == "bspline" else {}):
            field = xdreg.register(
                fixed,
                moving,
                stages=stages_of(case["method"]),
                block_shape=case["block_shape"],
                overlap=case["overlap"],
                fixed_mask=make_mask(case["fixed_mask"], fixed),
                moving_mask=make_mask(case["moving_mask"], moving),
                progress=False,
            )
    except xdreg.XdregError as error:
        assert str(error)
        return str(error)
    check(field, case["fixed"])
    return field


def check(field, fixed):
    displacement = field.displacement.values
    assert displacement.dtype == np.float32
    assert np.isfinite(displacement).all()
    stored = fixed_grid(field)
    assert stored.shape == fixed["shape"]
    np.testing.assert_allclose(stored.spacing, fixed["spacing"], rtol=1e-3)
    grid = field_grid(field)
    assert grid.dims == stored.dims
    assert grid.origin == stored.origin
    last = grid.index_to_physical(np.array(grid.shape) - 1)
    image_last = stored.index_to_physical(np.array(stored.shape) - 1)
    slack = 1e-6 * np.array(stored.spacing)
    assert (last >= image_last - slack).all()
    if "matrix" not in field.attrs:
        # A linear field needs its corners only.
        step = np.divide(grid.spacing, stored.spacing)
        np.testing.assert_allclose(step, np.round(step), rtol=1e-9)
        assert (last - image_last < grid.spacing - slack).all()
    assert float(field.dreg.jacobian_determinant().min()) > 0
    known = {int(s) for s in BlockStatus} - {int(BlockStatus.PENDING)}
    assert set(np.unique(field.block_status)) <= known


def case_of(shape, method="lncc", **options):
    """Return a case with these options and plain defaults."""
    ndim = len(shape)
    moving = options.pop("moving", {})
    fixed = {
        "shape": shape,
        "spacing": options.pop("spacing", (1.0,) * ndim),
        "origin": (0.0,) * ndim,
        "dtype": "float32",
        "content": "blobs",
        "chunks": None,
        "kind": "range",
        "seed": 0,
    } | options.pop("fixed", {})
    names = ("block_shape", "overlap", "fixed_mask", "moving_mask")
    given = dict.fromkeys(names) | options
    return {"fixed": fixed, "moving": fixed | moving, "method": method, **given}


@pytest.mark.filterwarnings("ignore")
@given(cases())
@settings(
    max_examples=250,
    derandomize=True,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
# Found by earlier runs: descriptors of a line, edges of a single voxel, a mask that is
# empty on a coarse level.
@example(case_of((1, 7), "default", fixed={"content": "inf patch"}))
@example(case_of((8, 12, 65), "default", spacing=(1.0, 1.0, 3.7), moving_mask="half"))
@example(case_of((4, 1, 5), "default", spacing=(1.0, 100.0, 1.0)))
@example(case_of((31, 4, 65), "translation", moving_mask="one voxel"))
# An affine fit that flattens the image.
@example(
    case_of(
        (2, 24, 13),
        "default",
        fixed={"content": "edge", "dtype": ">f4", "seed": 88},
        moving={"content": "blobs", "dtype": "int32"},
    )
)
# Large ones, and elastix.
@example(case_of((65, 65), block_shape=20, moving={"content": "nan patch"}))
@example(case_of((65, 65, 65), block_shape=40, moving={"seed": 1}))
@example(case_of((24, 28, 1), "bspline", moving={"content": "constant", "seed": 2}))
@example(case_of((33, 30), "bspline", block_shape=20, fixed={"content": "empty half"}))
def test_any_pair_ends_in_a_sane_field_or_one_clear_error(case):
    found = run(case)
    assert isinstance(found, xr.Dataset | str)
