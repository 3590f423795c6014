"""Levels of a pyramid."""

import dask.array
import numpy as np
import pytest

from xdreg.stores.pyramid import downsample


@pytest.mark.parametrize("dtype", ["int32", "uint32", "int64", "uint64", "float64"])
def test_means_of_large_numbers_neither_wrap_nor_lose_digits(dtype):
    kind = np.dtype(dtype).kind
    largest = np.iinfo(dtype).max if kind in "iu" else 1.0 + 2.0**-40
    values = np.full((4, 6), largest, dtype)
    coarse = downsample(dask.array.from_array(values), (2, 2)).compute()
    assert coarse.dtype == np.dtype(dtype)
    np.testing.assert_allclose(coarse.astype(float), float(largest), rtol=2.0**-52)
