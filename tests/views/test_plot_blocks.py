"""Maps of blocks: what they show, and where."""

import json

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest

import xdreg
from tests.helpers.fields import Known
from tests.helpers.viewers import ODD
from xdreg.fields.diagnostics import status_attrs
from xdreg.partition import BlockStatus

matplotlib.use("Agg")


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


def test_what_cannot_be_mapped_is_named():
    with pytest.raises(xdreg.InputError, match="no diagnostics of blocks"):
        xdreg.plot.block_map(Known(3).field)
    mapped = blocks()[0]
    with pytest.raises(xdreg.InputError, match="what must be one of 'status'"):
        xdreg.plot.block_map(mapped, "seconds")
    with pytest.raises(xdreg.InputError, match="stage must be one of"):
        xdreg.plot.block_map(mapped, stage=4)
    with pytest.raises(xdreg.InputError, match="layer of blocks from 0 to 1"):
        xdreg.plot.block_map(mapped, at=2)


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: repr(odd)[:12])
def test_odd_arguments_end_in_one_clear_error(odd):
    mapped = blocks()[0]
    for name in ("what", "stage", "cut", "at"):
        try:
            xdreg.plot.block_map(mapped, **{name: odd})
        except xdreg.XdregError as error:
            assert str(error)
    plt.close("all")


def test_plots_of_an_oblique_image_say_whose_axes_they_show():
    cos, sin = np.cos(0.4), np.sin(0.4)
    turn = json.dumps([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])
    pair = xdreg.datasets.phantom_pair((16, 24, 24), amplitude=1.0)
    for name, end in (("direction", " of the image"), ("other", "")):
        fixed, moving = (
            image.assign_coords({name: turn}) for image in (pair.fixed, pair.moving)
        )
        field = fixed.dreg.register(
            moving, metric="lncc", stages="affine", progress=False
        )
        for ax in (
            xdreg.plot.block_map(field, "gain"),
            xdreg.plot.deformed_grid(field),
            xdreg.plot.compare(field, fixed, moving, "overlay"),
        ):
            assert ax.get_xlabel() == f"x{end} / micrometer"
            assert ax.get_ylabel() == f"y{end} / micrometer"
