"""The linear transforms of a time series' frames: to an image, the mean, or each other.

Results are judged by those around them (`motion_path`) and tried again where they
contradict them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import dask
import numpy as np

from xdreg.errors import InputError
from xdreg.partition import BlockStatus
from xdreg.registration.frames import (
    FrameResult,
    Frames,
    register_frame,
    summed_frames,
)
from xdreg.registration.motion_path import (
    corners_of,
    followed,
    judge_frames,
    moved,
    time_weights,
    usual_scores,
)
from xdreg.stores.graphs import shared

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import xarray as xr
    from numpy.typing import NDArray

    from xdreg.stages import Kind

Reference = int | Literal["previous", "mean"]

REJECTED = BlockStatus.REJECTED

#: Rounds of registration to the mean of the aligned frames, and the largest motion in
#: voxels after which no other follows.
ROUNDS, REST = 5, 0.05

#: Frames that a task adds up.
TOGETHER = 8


@dataclass(frozen=True)
class Found:
    """What is known of every frame.

    ``matrices`` (t, ndim + 1, ndim + 1) map the reference to the frame, NaN where a
    frame has none. ``fields`` are its displacements by frame, after deformable stages.
    """

    frames: Frames
    matrices: NDArray[np.float64]
    scores: NDArray[np.float64]
    status: NDArray[np.int64]
    fields: Mapping[int, xr.Dataset] | None = None

    @classmethod
    def of(cls, frames: Frames, results: Sequence[FrameResult]) -> Found:
        """Return the results of all frames as arrays."""
        return cls(
            frames,
            np.stack([result.matrix for result in results]),
            np.array([result.score for result in results]),
            np.array([int(result.status) for result in results]),
        )

    @property
    def good(self) -> NDArray[np.bool_]:
        """Frames with a transform of their own."""
        return np.asarray(self.status == BlockStatus.SUCCESS)

    @property
    def kind(self) -> Kind:
        """Kind of the linear transforms."""
        return self.frames.stages[-1].name  # type: ignore[return-value]

    def weights(
        self, times: NDArray[np.float64], smooth: float | None = None
    ) -> NDArray[np.float64]:
        """Return the weights of `motion_path.time_weights`."""
        return time_weights(times, self.good, smooth)

    def followed(
        self, times: NDArray[np.float64], smooth: float | None = None
    ) -> Found:
        """Return transforms for all frames."""
        weights = self.weights(times, smooth)
        matrices = followed(self.matrices, weights, self.frames.grid, self.kind)
        return replace(self, matrices=matrices)

    def judged(self) -> tuple[Found, NDArray[np.bool_]]:
        """Return the frames with their status by the others, and the doubtful ones."""
        found = judge_frames(
            self.matrices,
            self.scores,
            self.status,
            self.frames.grid,
            self.frames.unlike,
        )
        return replace(self, status=found.status), found.doubtful

    def replaced(self, results: Mapping[int, FrameResult]) -> Found:
        """Return the frames with other results, where those are no worse."""
        matrices, scores = self.matrices.copy(), self.scores.copy()
        for number, result in results.items():
            if result.score >= scores[number]:
                matrices[number], scores[number] = result.matrix, result.score
        return replace(self, matrices=matrices, scores=scores)


def _registered(
    frames: Frames,
    jobs: Iterable[tuple[int, NDArray[np.float32] | int, Any]],
) -> list[FrameResult]:
    """Register frames, each given by number, reference and start, in parallel."""
    node, nodes = shared(frames, "frames"), {}
    tasks = []
    for number, reference, start in jobs:
        if not isinstance(reference, int):
            # A worker gets an image once.
            if id(reference) not in nodes:
                nodes[id(reference)] = shared(reference, "reference")
            reference = nodes[id(reference)]
        task = dask.delayed(register_frame, pure=False)
        tasks.append(task(node, reference, number, start))
    return list(dask.compute(*tasks))


def follow(frames: Frames, reference: Reference, times: NDArray[np.float64]) -> Found:
    """Register all frames linearly."""
    if reference == "previous":
        return _from_previous(frames, times)
    if reference == "mean":
        return _to_mean(frames, times)
    number = int(reference) % frames.count
    fixed = frames.read(number)
    if isinstance(fixed, BlockStatus):
        msg = f"frame {number}, the reference, is {fixed.meaning}; choose another"
        raise InputError(msg, reference=...)
    return _to_image(frames, fixed, times, number)


def _to_image(
    frames: Frames,
    fixed: NDArray[np.float32],
    times: NDArray[np.float64],
    own: int | None = None,
) -> Found:
    """Register all frames to an image, which may be frame ``own``."""
    others = [number for number in range(frames.count) if number != own]
    results = _registered(frames, ((number, fixed, None) for number in others))
    if own is not None:
        same = np.eye(frames.grid.ndim + 1)
        results.insert(own, FrameResult(same, 1.0, BlockStatus.SUCCESS))
    found, doubtful = Found.of(frames, results).judged()
    if not doubtful.any():
        return found
    # Again, from where their neighbours are.
    trusted = replace(found, status=np.where(doubtful, REJECTED, found.status))
    starts = trusted.followed(times).matrices
    again = np.flatnonzero(doubtful).tolist()
    results = _registered(frames, ((n, fixed, starts[n]) for n in again))
    found, doubtful = found.replaced(dict(zip(again, results, strict=True))).judged()
    return replace(found, status=np.where(doubtful, REJECTED, found.status))


def _to_mean(frames: Frames, times: NDArray[np.float64]) -> Found:
    """Register all frames to the mean of the aligned ones, until they rest."""
    number, image = _first(frames)
    found = _to_image(frames, image, times, number)
    for _ in range(ROUNDS):
        before = found.followed(times).matrices
        found = _to_image(frames, _mean(found), times)
        after = found.followed(times).matrices
        corners = corners_of(frames.grid)
        gaps = (moved(after, corners) - moved(before, corners)) / frames.grid.spacing
        if np.abs(gaps).max() < REST:
            break
    return found


def _mean(found: Found) -> NDArray[np.float32]:
    """Return the mean of the aligned frames, NaN where none has a value."""
    numbers = np.flatnonzero(found.good).tolist()
    parts = [numbers[n : n + TOGETHER] for n in range(0, len(numbers), TOGETHER)]
    node = shared(found.frames, "frames")
    task = dask.delayed(summed_frames, pure=False)
    sums = dask.compute(*(task(node, part, found.matrices) for part in parts))
    total, count = np.sum(sums, axis=0)
    with np.errstate(invalid="ignore"):
        return np.asarray(total / np.where(count > 0, count, np.nan), np.float32)


def _first(frames: Frames) -> tuple[int, NDArray[np.float32]]:
    """Return the first frame that has content, and its number."""
    for number in range(frames.count):
        image = frames.read(number)
        if not isinstance(image, BlockStatus):
            return number, image
    msg = "no frame of series has content; is it the right channel?"
    raise InputError(msg)


def _from_previous(frames: Frames, times: NDArray[np.float64]) -> Found:
    """Register each frame to the one before it that counts, and add up the steps."""
    first, _ = _first(frames)
    same = FrameResult(np.eye(frames.grid.ndim + 1), 1.0, BlockStatus.SUCCESS)
    results = [replace(same, status=BlockStatus.EMPTY)] * first + [same]
    results += _registered(
        frames, ((n, n - 1, None) for n in range(first + 1, frames.count))
    )
    steps = Found.of(frames, results)
    like = steps.scores >= frames.unlike * usual_scores(steps.scores, steps.status)
    # A frame that is unlike the next may be what is wrong with the pair.
    start = next((n for n in range(first, frames.count - 1) if like[n + 1]), first)
    usual = np.nanmedian(steps.scores[like]) if like.any() else 0.0
    for number in range(first, start):
        results[number] = replace(same, status=REJECTED)
    last, before = start, dict[int, int]()
    for number in range(start + 1, frames.count):
        if last != number - 1:
            (results[number],) = _registered(frames, [(number, last, None)])
        result, before[number] = results[number], last
        if result.status == BlockStatus.SUCCESS:
            if result.score < frames.unlike * usual:
                results[number] = replace(result, status=REJECTED)
            else:
                last = number
    found = _steps_judged(Found.of(frames, results), before, times)
    matrices = found.matrices.copy()
    for number, one in before.items():
        matrices[number] = found.matrices[number] @ matrices[one]
    return replace(found, matrices=matrices)


def _steps_judged(
    steps: Found, before: Mapping[int, int], times: NDArray[np.float64]
) -> Found:
    """Try steps again that contradict those around them, else take theirs."""
    plain = np.array([before.get(n) == n - 1 for n in range(steps.frames.count)])
    single = replace(steps, status=np.where(plain, steps.status, BlockStatus.PENDING))
    _, doubtful = single.judged()
    if not doubtful.any():
        return steps
    trusted = replace(single, status=np.where(doubtful, REJECTED, single.status))
    starts = trusted.followed(times).matrices
    again = np.flatnonzero(doubtful).tolist()
    results = _registered(steps.frames, ((n, n - 1, starts[n]) for n in again))
    single = single.replaced(dict(zip(again, results, strict=True)))
    _, doubtful = single.judged()
    matrices = np.where(doubtful[:, None, None], starts, single.matrices)
    status = np.where(doubtful, REJECTED, steps.status)
    return replace(single, matrices=matrices, status=status)
