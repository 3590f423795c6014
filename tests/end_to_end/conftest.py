"""Results that several test files compare with."""

import dask
import pytest

from tests.helpers.runs import digest


@pytest.fixture(scope="session")
def alone():
    """Return the digest of one worker, one block after the other."""
    with dask.config.set(scheduler="synchronous"):
        return digest()
