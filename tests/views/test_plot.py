"""Pictures: the right plane, before and after, and what each of them must show."""

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr

import xdreg
from tests.helpers.fields import Known, folding
from xdreg.coordinates import grid_of
from xdreg.fields.diagnostics import status_attrs
from xdreg.fields.field import make_field
from xdreg.partition import BlockStatus
from xdreg.views import pictures

matplotlib.use("Agg")


@pytest.fixture(scope="module")
def pair():
    return xdreg.datasets.phantom_pair((24, 60, 70), amplitude=4.0, noise=0.0)


@pytest.fixture(scope="module")
def field(pair):
    return make_field(pair.displacement.values, grid_of(pair.fixed))


def blocks(ndim=3):
    """Return a field with blocks of all kinds."""
    known = Known(ndim)
    shape = (2, 3, 4)[-ndim:]
    status = np.arange(np.prod(shape)).reshape(shape) % 3
    status = np.choose(status, [0, BlockStatus.EMPTY, BlockStatus.FOLDED])
    dims = [f"block_{d}" for d in known.fixed.dims]
    field = known.field.assign(
        block_status=(dims, status.astype(np.int8), status_attrs()),
        block_similarity_before=(dims, np.full(shape, 0.5, np.float32)),
        block_similarity_after=(dims, np.linspace(0.5, 1, status.size).reshape(shape)),
    )
    return field, status


def test_the_overlay_agrees_after_and_not_before(pair, field, tmp_path):
    for figure in (
        field.dreg.plot(pair.fixed, pair.moving),
        xdreg.plot.before_after(field, pair.fixed, pair.moving),
    ):
        before, after = (axis.images[0].get_array() for axis in figure.axes[:2])
        # Magenta and green differ where fixed and moved do.
        gaps = [
            np.abs(np.subtract(v[..., 0], v[..., 1])).mean() for v in (before, after)
        ]
        assert gaps[1] < 0.3 * gaps[0]
        figure.savefig(tmp_path / "figure.png", dpi=40)
        assert figure.axes[0].get_xlabel() == "x / micrometer"


@pytest.mark.parametrize("style", ["checkerboard", "difference", "red-green"])
@pytest.mark.parametrize("cut", ["z", "y", "x"])
def test_styles_along_every_axis(pair, field, style, cut):
    shown = []
    for before in (True, False):
        ax = xdreg.plot.compare(
            field, pair.fixed, pair.moving, style, before=before, cut=cut
        )
        shown.append(np.ma.filled(ax.images[0].get_array(), 0))
        plt.close(ax.figure)
    if style == "difference":
        assert np.abs(shown[1]).mean() < 0.3 * np.abs(shown[0]).mean()
    rows, columns = (d for d in ("z", "y", "x") if d != cut)
    assert shown[0].shape[:2] == (pair.fixed.sizes[rows], pair.fixed.sizes[columns])
    assert ax.get_ylabel() == f"{rows} / micrometer"
    assert ax.get_ylim() == (pair.fixed.sizes[rows] - 0.5, -0.5)


def test_a_checkerboard_alternates_and_keeps_colours():
    fixed, moved = np.zeros((4, 6, 3)), np.ones((4, 6, 3))
    board = pictures.checkerboard(fixed, moved, (2, 3))
    assert board[..., 0].tolist() == [[0, 0, 0, 1, 1, 1]] * 2 + [[1, 1, 1, 0, 0, 0]] * 2
    rgb = np.zeros((3, 40, 50), np.uint8)
    rgb[0], rgb[2] = 200, 90
    known = xdreg.datasets.phantom_pair((40, 50))
    image = xr.DataArray(rgb, dims=("c", "y", "x"), coords=known.fixed.coords)
    still = make_field(np.zeros((2, 40, 50), np.float32), grid_of(known.fixed))
    shown = xdreg.plot.compare(still, image, image, "checkerboard").images[0]
    np.testing.assert_allclose(shown.get_array()[5, 5] * 255, (200, 0, 90), atol=0.5)


def test_a_difference_knows_gain_and_offset():
    fixed = np.random.default_rng(0).random((30, 30)).astype(np.float32)
    moved = 7 - 3 * fixed
    moved[0] = np.nan
    gaps, limit = pictures.difference(fixed, moved)
    assert np.isnan(gaps[0]).all()
    assert np.nanmax(np.abs(gaps)) < 1e-5 < limit


def test_the_grid_goes_where_the_field_says(pair, field):
    ax = xdreg.plot.deformed_grid(field, affine=True, cut="z", at=10.0)
    line = ax.lines[0].get_xydata()
    u = field.displacement.sel(component=["x", "y"]).isel(z=10, y=0).values.T
    np.testing.assert_allclose(line - np.stack([np.arange(70), np.zeros(70)], 1), u)
    turned = Known(3, 40)
    ax = xdreg.plot.deformed_grid(turned.field, cut="z")
    # Without the turn all of it stays near the picture.
    drawn = np.concatenate([v.get_xydata() for v in ax.lines])
    lower, upper = turned.fixed.bounds
    assert (drawn > lower[:0:-1] - 8).all()
    assert (drawn < upper[:0:-1] + 8).all()


def test_arrows_are_as_long_as_they_say():
    grid = xdreg.Grid(("y", "x"), (52, 52), (1.0, 1.0), (0.0, 0.0), "micrometer")
    values = np.zeros((2, 52, 52), np.float32)
    values[1, 20:] = 0.09
    ax = xdreg.plot.quiver(make_field(values, grid), affine=True)
    arrows = ax.collections[0]
    assert "20 × as long" in ax.get_title()
    np.testing.assert_allclose(arrows.U.max(), 20 * 0.09, rtol=1e-6)
    np.testing.assert_allclose(arrows.get_array().max(), 0.09, rtol=1e-6)


def test_folds_are_marked():
    ax = xdreg.plot.jacobian(folding((90, 80)))
    assert "folds at" in ax.get_title()
    marked = ax.lines[0].get_xydata()
    assert len(marked) > 3
    assert np.linalg.norm(marked - (45, 40), axis=1).max() < 20
    ax = xdreg.plot.jacobian(Known(2).field)
    assert "no fold" in ax.get_title()
    assert not ax.lines


def test_magnitude_is_in_the_units_of_the_field(field):
    ax = xdreg.plot.magnitude(field, affine=True, cut="y", at=7.0)
    length = np.linalg.norm(field.displacement.isel(y=7), axis=0)
    np.testing.assert_allclose(ax.images[0].get_array(), length, rtol=1e-5)
    assert ax.child_axes[0].get_ylabel() == "displacement / micrometer"


@pytest.mark.parametrize("ndim", [2, 3])
def test_a_map_of_blocks_shows_the_worst(ndim):
    field, status = blocks(ndim)
    ax = xdreg.plot.block_map(field)
    shown = ax.collections[0].get_array()
    assert shown.shape == status.shape[-2:]
    texts = [text.get_text() for text in ax.get_legend().get_texts()]
    assert sorted(texts) == sorted(
        f"{name} ({(status == value).sum()})"
        for name, value in (("success", 0), ("empty", 1), ("folded", 5))
    )
    colours = ax.collections[0].get_cmap()(ax.collections[0].norm(shown))
    worst = (status == 5).any(axis=0) if ndim == 3 else status == 5
    orange = matplotlib.colors.to_rgba("#e69f00")
    np.testing.assert_array_equal(np.all(np.isclose(colours, orange), axis=-1), worst)
    gain = xdreg.plot.block_map(field, "gain").collections[0].get_array()
    expected = (field.block_similarity_after - field.block_similarity_before).values
    np.testing.assert_allclose(gain, expected.min(axis=0) if ndim == 3 else expected)


def test_a_map_knows_where_blocks_lie():
    pair = xdreg.datasets.phantom_pair((60, 90), spacing=2.0, amplitude=3.0)
    field = pair.fixed.dreg.register(
        pair.moving, block_shape=32, progress=False, metric="lncc",
        stages=[xdreg.LocalCorrelation(level=0, iterations=3)],
    )  # fmt: skip
    ax = xdreg.plot.block_map(field, "similarity_after")
    corners = ax.collections[0].get_coordinates().reshape(-1, 2)
    np.testing.assert_allclose(corners.min(axis=0), (-1, -1))
    np.testing.assert_allclose(corners.max(axis=0), (179, 119))
    assert ax.get_xlabel() == "x / micrometer"
    figure = field.dreg.plot()
    titles = [axes.get_title() for axes in figure.axes]
    assert any("status" in title for title in titles)


def test_what_cannot_be_drawn_is_named(pair, field):
    with pytest.raises(xdreg.InputError, match="style must be one of 'overlay'"):
        xdreg.plot.compare(field, pair.fixed, pair.moving, "blink")
    with pytest.raises(xdreg.InputError, match="both images"):
        field.dreg.plot(pair.fixed)
    with pytest.raises(xdreg.InputError, match="nothing of its blocks"):
        xdreg.plot.block_map(field)
    mapped = blocks()[0]
    with pytest.raises(xdreg.InputError, match="what must be 'gain' or one of"):
        xdreg.plot.block_map(mapped, "seconds")
    with pytest.raises(xdreg.InputError, match="stage must be one of"):
        xdreg.plot.block_map(mapped, stage=4)
    with pytest.raises(xdreg.InputError, match="layer of blocks from 0 to 1"):
        xdreg.plot.block_map(mapped, at=2)


ODD = [
    *(5, -1, 3.5, float("nan"), 10**400, True, np.int64(3), "x", b"x", [], {}),
    *(("a",), object(), np.zeros(3)),
]


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: repr(odd)[:12])
def test_odd_arguments_end_in_one_clear_error(odd, pair):
    flat = xdreg.datasets.phantom_pair((20, 24))
    still = make_field(np.zeros((2, 20, 24), np.float32), grid_of(flat.fixed))
    images = still, flat.fixed, flat.moving
    mapped = blocks()[0]
    compare, names = xdreg.plot.compare, ("cut", "at", "channel", "style")
    calls = [lambda name=name: compare(*images, **{name: odd}) for name in names]
    calls += [
        lambda: still.dreg.plot(odd, odd),
        lambda: xdreg.plot.jacobian(odd),
        lambda: xdreg.plot.block_map(mapped, odd),
        *(
            lambda name=name: xdreg.plot.block_map(mapped, **{name: odd})
            for name in ("stage", "cut", "at")
        ),
    ]
    for call in calls:
        try:
            call()
        except xdreg.XdregError as error:
            assert str(error)
    plt.close("all")


def test_a_dollar_sign_in_units_starts_no_formula(tmp_path):
    grid = xdreg.Grid(("y", "x"), (20, 20), (1.0, 1.0), (0.0, 0.0), "$\\frac{")
    figure = make_field(np.zeros((2, 20, 20), np.float32), grid).dreg.plot()
    figure.savefig(tmp_path / "figure.png", dpi=40)
