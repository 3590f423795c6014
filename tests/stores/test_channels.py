"""Selection of channels by number, by name and by luminance."""

import pytest

import xdreg
from tests.helpers.stores import rgb
from xdreg.stores.channels import LUMINANCE_WEIGHTS, channel_selection

PAIR = xdreg.datasets.phantom_pair((64, 80), amplitude=2.0)
WEIGHTS = tuple(LUMINANCE_WEIGHTS.values())


def test_the_weights_are_those_of_the_standard():
    assert WEIGHTS == (0.2126, 0.7152, 0.0722)
    assert sum(WEIGHTS) == pytest.approx(1)


@pytest.mark.parametrize(
    ("names", "weights"),
    [
        (None, WEIGHTS),
        (["red", "green", "blue"], WEIGHTS),
        (["Blue", "Green", "Red"], WEIGHTS[::-1]),
        (["a", "r", "g", "b"], (0.0, *WEIGHTS)),
        (["red", "green", "luminance"], 2),
    ],
)
def test_luminance_goes_by_the_names_of_the_channels(names, weights):
    image = rgb(PAIR.fixed, alpha=names is not None and len(names) == 4)
    if names is not None:
        image = image.assign_coords(c=names)
    assert channel_selection(image, "luminance", "fixed") == weights


def test_of_four_channels_without_names_the_last_is_alpha():
    image = rgb(PAIR.fixed, alpha=True)
    assert channel_selection(image, "luminance", "fixed") == (*WEIGHTS, 0.0)
