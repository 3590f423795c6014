"""Colours of images, fields and blocks: the same in plots, reports and viewers.

They are distinct for red-green colour blindness.
"""

#: Names of the colours of a pair, which matplotlib lacks in this sense: grey where
#: the images agree.
PAIR_COLOURS = ("magenta", "green")

#: The same as red, green and blue.
PAIR_RGB = ((1.0, 0.0, 1.0), (0.0, 1.0, 0.0))

#: Colour map of lengths of a displacement.
LENGTHS = "viridis"

#: Colour map of what has a middle: changes of volume, differences.
DIVERGING = "RdBu_r"

#: Colours of the statuses of blocks. Grey needs no action.
STATUS_COLOURS = {
    "success": "#44aa99",
    "empty": "#dddddd",
    "no_overlap": "#bbbbbb",
    "too_few_samples": "#888888",
    "not_improved": "#ddcc77",
    "folded": "#e69f00",
    "rejected": "#d55e00",
    "crashed": "#882255",
    "timeout": "#cc79a7",
    "unreadable": "#332288",
}


def status_colour(name: str) -> str:
    """Return the colour of a status; blue if this version does not know it."""
    return STATUS_COLOURS.get(name, "#0000ff")
