"""Colours of the statuses of blocks, in plots and viewers.

They are distinct for red-green colour blindness. Grey needs no action.
"""

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
    """Return the colour of a status; magenta if this version does not know it."""
    return STATUS_COLOURS.get(name, "#ff00ff")
