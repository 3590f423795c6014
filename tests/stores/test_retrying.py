"""Retries: how often, how long, and of which errors."""

import pytest

import xdreg
from xdreg.stores import retrying


def test_tries_are_bounded_and_the_waits_are_the_same(monkeypatch):
    waits = []
    monkeypatch.setattr(retrying, "FIRST_WAIT", 0.2)
    monkeypatch.setattr(retrying.time, "sleep", waits.append)

    def fail():
        raise ConnectionResetError

    with pytest.raises(xdreg.StoreError, match="a chunk cannot be read: Connection"):
        retrying.retry_read(fail, "a chunk")
    assert waits == [0.2, 0.4, 0.8, 1.6]

    def missing():
        raise PermissionError

    with pytest.raises(xdreg.StoreError):
        retrying.retry_read(missing, "a chunk")
    assert len(waits) == 4
