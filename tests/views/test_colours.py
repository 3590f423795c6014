"""Colours of statuses."""

from xdreg.partition import BlockStatus
from xdreg.views.colours import STATUS_COLOURS, status_colour


def test_every_status_has_a_colour():
    ended = set(BlockStatus) - {BlockStatus.PENDING}
    assert {status.meaning for status in ended} == set(STATUS_COLOURS)
    assert status_colour("of a later version") not in STATUS_COLOURS.values()
