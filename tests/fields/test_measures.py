"""Measures of a field, against numpy on the whole field."""

import dask
import numpy as np
import pytest
import xarray as xr

import xdreg
from tests.helpers.fields import Known, folding, moving_like, unreadable, wavy
from xdreg.fields import measures


@pytest.mark.parametrize("ndim", [2, 3])
def test_statistics_are_those_of_the_whole_field(ndim):
    field = Known(ndim, 20).field
    found = field.dreg.statistics(block_shape=8).compute()
    jacobian = field.dreg.jacobian_determinant().values
    length = np.linalg.norm(field.displacement.values, axis=0)
    corner, last = (slice(0, 8),) * ndim, (slice(8, 16),) * ndim
    for part, index in ((corner, 0), (last, 1)):
        block = found.isel({f"block_{d}": index for d in ("z", "y", "x")[-ndim:]})
        assert float(block.max_displacement) == length[part].max()
        assert float(block.mean_displacement) == pytest.approx(length[part].mean())
        assert float(block.min_jacobian) == jacobian[part].min()
        assert float(block.max_jacobian) == jacobian[part].max()
        assert float(block.folded_share) == 0
    assert found.max_displacement.attrs["units"] == "micrometer"
    counts = [-(-n // 8) for n in field.displacement.shape[1:]]
    assert list(found.min_jacobian.shape) == counts
    centre = field.displacement.x.values[:8].mean()
    assert float(found.block_x[0]) == pytest.approx(centre)


def test_the_folded_share_counts_points():
    field = folding((100, 90))
    folded = field.dreg.jacobian_determinant().values <= 0
    share = field.dreg.folded_share()
    assert share.chunks is not None
    assert 0 < float(share) == pytest.approx(folded.mean())
    blocks = field.dreg.statistics(block_shape=(50, 45)).folded_share
    assert blocks.shape == (2, 2)
    assert float(blocks.mean()) == pytest.approx(folded.mean(), rel=1e-5)


def test_consistency_is_the_error_of_the_round_trip():
    known = Known(3, 60)
    inverse = known.field.dreg.inverse(like=moving_like(known), step=1).compute()
    error = known.field.dreg.consistency(inverse)
    assert float(error.mean()) < 0.03
    assert error.attrs["units"] == "micrometer"
    shifted = inverse.assign(displacement=inverse.displacement + 3)
    off = known.field.dreg.consistency(shifted).compute()
    assert float(off.median()) == pytest.approx(3 * 3**0.5, abs=0.05)
    small = inverse.isel(z=slice(0, 10))
    del small.attrs["fixed_grid"]
    partly = known.field.dreg.consistency(small)
    assert 0.2 < float(np.isnan(partly).mean()) < 1


def test_bits_do_not_depend_on_chunks_and_graphs_read_nothing(monkeypatch):
    known = Known(3, 20)
    inverse = known.field.dreg.inverse(like=moving_like(known)).compute()
    whole = known.field.dreg.consistency(inverse).compute(scheduler="synchronous")
    statistics = known.field.dreg.statistics(block_shape=9).compute()
    chunked = known.field.chunk(z=4, y=6, x=5)
    with dask.config.set(scheduler="threads", num_workers=3):
        other = chunked.dreg.consistency(inverse.chunk(z=7)).compute()
        again = chunked.dreg.statistics(block_shape=9).compute()
    xr.testing.assert_identical(other, whole)
    xr.testing.assert_identical(again, statistics)
    monkeypatch.setitem(measures.FIELD_CHUNK, 3, 9)
    np.testing.assert_allclose(known.field.dreg.consistency(inverse), whole, atol=2e-5)
    lazy = unreadable(known.field)
    for measure in (xdreg.jacobian_determinant, xdreg.folded_share, xdreg.statistics):
        assert measure(lazy).chunks is not None
    assert xdreg.consistency(lazy, unreadable(inverse)).chunks is not None


def test_mistakes_are_named():
    field = Known(2).field
    with pytest.raises(xdreg.InputError, match="inverse has dimensions"):
        field.dreg.consistency(Known(3).field)
    with pytest.raises(xdreg.InputError, match="block_shape"):
        field.dreg.statistics(block_shape=0)


def test_jacobian_is_the_same_for_any_chunking():
    field, _ = wavy()
    whole = field.dreg.jacobian_determinant()
    chunked = field.chunk(z=4, y=5, x=6).dreg.jacobian_determinant()
    np.testing.assert_array_equal(whole.values, chunked.values)
    assert float(whole.min()) > 0
