"""A field's summary."""

import json

import pytest
import xarray as xr

import xdreg
from tests.helpers.viewers import hostile
from xdreg.views.summary import summary_html


def test_a_field_shows_itself(registered):
    field = registered[2]
    text = repr(field.dreg)
    assert "33 × 49 points (y, x), every 2 × 2 micrometer" in text
    assert "success" in text
    html = hostile(field).dreg._repr_html_()
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    assert html.count("flex:") == len(
        xdreg.fields.provenance.last_deformable(field).statuses
    )
    assert "field is a Dataset" in summary_html(xr.Dataset())
    damaged = field.assign_attrs(xdreg="{")
    assert "is damaged" in repr(damaged.dreg)
    # An inverse is lazy, its diagnostics too: nothing of them is computed.
    inverse = field.dreg.inverse(like=registered[1])
    assert "success" not in repr(inverse.dreg)


@pytest.mark.parametrize(
    "stages",
    [
        *(None, [], {}, "x", [1], [{}], [{"name": 5}], [{"grid": 1}]),
        [{"grid": {"dims": ["y"]}, "block_shape": [0, 0]}],
        [{"name": "affine", "grid": {}, "block_shape": "ab", "overlap": None}],
    ],
)
def test_provenance_of_any_kind_is_survived(registered, stages):
    field = registered[2].assign_attrs(xdreg=json.dumps({"stages": stages}))
    for record in xdreg.fields.provenance.stages_of(field):
        assert record.partition is None
    assert "field" in repr(field.dreg)
    assert xdreg.plot.block_map(field).get_xlabel() == "block_x"
