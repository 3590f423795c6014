"""What is said of a pose, without what finds one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Below this margin another pose fits about as well. Calibrated on rotated and cropped
#: real pairs, phantoms and pairs without a right answer: see the benchmarks.
DOUBTFUL = 0.125


def pose_text(pose: Mapping[str, Any], units: str | None) -> str:
    """Return a pose as a line of text, from the result of `Pose.to_dict`."""
    shift = ", ".join(f"{value:g}" for value in pose["shift"])
    mirror = "a mirror and " if pose.get("mirror") else ""
    return (
        f"{mirror}a turn of {pose['turn']:g}°, a scale of {pose['scale']:g} and a "
        f"shift of ({shift}) {units or ''}".rstrip()
        + f" (from {pose['origin']}; score {pose['score']:.2f}, that of the next "
        f"{pose['runner_up']:.2f}, margin {pose['margin']:.2f})"
    )
