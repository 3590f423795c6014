"""Greedy diffeomorphic descent, driven by the force of any metric.

An iteration gets an update from the force, smooths and bounds it, applies it *before*
the displacement (``φ ← φ ∘ (id + v)``) and smooths the total.

Displacements are ``(z, y, x, 3)`` float32 in voxels, on `numerics.nodes`. Components
of a node are adjacent, so that every axis is smoothed along contiguous rows. Kernels
work on a slab of planes, or of rows across them. They write each from inputs that no
other slab changes, so the bits do not depend on the number of threads.

Sources: Yushkevich et al., Automated volumetry and regional thickness analysis of
hippocampal subfields, Human Brain Mapping 2015 (greedy); Vercauteren et al.,
Diffeomorphic demons, NeuroImage 2009 (compositional update).
"""

from __future__ import annotations

import itertools
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from xdreg.errors import MethodTimeout
from xdreg.numerics.filters import compiled, node_taps, smooth_across, smooth_planes
from xdreg.numerics.trilinear import cell, cell_steps

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from xdreg.numerics.nodes import Nodes

    Array = NDArray[np.float32]
    Totals = NDArray[np.float64]
    Kernel = Callable[[int, int, Array, Array, Totals], None]
    #: What a level takes: of `CompiledLevel` kernels, and the resistance.
    Force = tuple[Any, Any]


#: Iterations from which the slope of the energy is computed.
SLOPE_WINDOW = 5

#: Lower limit of the energy in the test of convergence. That of noise is lower, and
#: always rises.
LEAST_ENERGY = 0.1

#: Shortest step, in voxels.
LEAST_STEP = 0.2

#: The descent ends when the longest update is below this, in voxels.
REST = 0.05


@dataclass(frozen=True)
class Settings:
    """Settings of a descent: those of `local_correlation`, in voxels (z, y, x).

    After shorter steps the total is smoothed less, so that the end of the descent does
    not depend on the length of its steps. The change of the energy is relative, so that
    images full of content and half-empty ones stop alike.
    """

    update_sigma: tuple[float, ...]
    field_sigma: tuple[float, ...]
    step: float
    iterations: int
    convergence: float
    threads: int
    timeout: float | None


class Level(Protocol):
    """The arrays of a descent, and the operations of an iteration on them.

    A context, within which the operations may be called.
    """

    def __enter__(self) -> Level:
        """Begin."""

    def __exit__(self, *exception: object) -> None:
        """End."""

    def push(self) -> float:
        """Write the update from the force; return the mean energy."""

    def smooth_update(self) -> float:
        """Smooth the update, divide it by the resistance; return its longest vector."""

    def move(self, step: float) -> None:
        """Apply the update, of at most ``step`` voxels, first; smooth the total."""

    def displacement(self) -> Array:
        """Return the total (z, y, x, 3)."""


@dataclass(frozen=True)
class Descent:
    """The settings of a descent, and a function that makes its force.

    A force, the kernels and the resistance of `CompiledLevel`, is made anew for each
    run, as it holds copies of the images. ``level`` makes the arrays that the descent
    works on; another kind takes forces of its own kind. ``end`` is a value of
    ``time.perf_counter`` in place of the settings' timeout.
    """

    nodes: Nodes
    settings: Settings
    force: Callable[[], Force]
    level: Callable[..., Level]
    end: float | None = None

    def run(
        self,
        iterations: int | None = None,
        start: Array | None = None,
        energies: Sequence[float] = (),
    ) -> tuple[Array, list[float]]:
        """Run `descend` for at most so many iterations, those before included.

        By default, and at most, it is the settings' number. It begins at ``start`` (z,
        y, x, 3), voxels, which is changed; by default at zero.
        """
        kernels, resistance = self.force()
        settings = self.settings
        if iterations is not None:
            most = min(iterations, settings.iterations)
            settings = replace(settings, iterations=most)
        if self.end is not None:
            left = max(self.end - time.perf_counter(), 0.0)
            settings = replace(settings, timeout=left)
        level = self.level(self.nodes, settings, kernels, resistance, start)
        return descend(level, settings, energies)


def descend(
    level: Level, settings: Settings, energies: Sequence[float] = ()
) -> tuple[Array, list[float]]:
    """Return the displacement (z, y, x, 3) of nodes at which a force vanishes.

    Also returns the mean energy at the start of every iteration. ``energies`` are those
    of the descent that ended where this one begins, and that it continues.
    """
    began = time.perf_counter()
    energies = list(energies)
    step, since = settings.step, len(energies)
    with level:
        for iteration in range(len(energies), settings.iterations):
            energies.append(level.push())
            since += 1
            least = settings.convergence * max(energies[-1], LEAST_ENERGY)
            if since > SLOPE_WINDOW and _slope(energies[-SLOPE_WINDOW:]) < least:
                step, since = step / 2, 0
                if step < LEAST_STEP:
                    break
            if level.smooth_update() < REST:
                break
            level.move(step)
            spent = time.perf_counter() - began
            if settings.timeout is not None and spent > settings.timeout:
                msg = (
                    f"stopped after {iteration + 1} iterations and {spent:.0f} s; "
                    "allow more time, or give it smaller blocks or fewer iterations"
                )
                raise MethodTimeout(msg)
    return level.displacement(), energies


class CompiledLevel:
    """The operations of an iteration by compiled kernels, in threads.

    Parameters
    ----------
    force
        Kernels ``kernel(start, stop, displacement, update, totals)``, each run over all
        planes of nodes before the next. The last one writes, for the planes from
        ``start`` to ``stop``, the update (z, y, x, 3) in voxels, and into ``totals``
        (z, 2) the sum of the energy, to be raised, and the number of its terms.
    resistance : (z, y, x) float32
        Divisor of the update, smoothed alike: the force against an update per voxel of
        its length. By default 1. It is smoothed in place.
    start : (z, y, x, 3) float32, voxels
        Initial displacement, which is changed; by default zero.
    """

    def __init__(
        self,
        nodes: Nodes,
        settings: Settings,
        force: Sequence[Kernel],
        resistance: Array | None = None,
        start: Array | None = None,
    ) -> None:
        shape, self._stride = nodes.shape, nodes.stride
        self._force, self._settings = force, settings
        self._total = np.zeros((*shape, 3), np.float32) if start is None else start
        self._update = np.zeros((*shape, 3), np.float32)
        self._totals = np.zeros((shape[0], 2))
        self._taps = update_taps(settings.update_sigma, nodes.stride)
        self._per_node = np.array([1 / s for s in nodes.stride], np.float32)
        self._one = np.ones((1, 1, 1), np.float32)
        self._slabs = _Slabs(shape, settings.threads)
        self._resistance = self._one
        if resistance is not None:
            self._update[...] = resistance[..., np.newaxis]
            self._slabs.smooth(self._update, self._taps, self._one)
            resistance[...] = self._update[..., 0]
            self._resistance = resistance

    def __enter__(self) -> CompiledLevel:
        return self

    def __exit__(self, *exception: object) -> None:
        self._slabs.close()

    def push(self) -> float:
        """Write the update from the force; return the mean energy."""
        for kernel in self._force:
            self._slabs.run(kernel, self._total, self._update, self._totals)
        energy, count = self._totals.sum(axis=0)
        return float(energy / max(count, 1.0))

    def smooth_update(self) -> float:
        """Smooth the update, divide it by the resistance; return its longest vector."""
        return self._slabs.smooth(self._update, self._taps, self._resistance)

    def move(self, step: float) -> None:
        """Apply the update, of at most ``step`` voxels, first; smooth the total."""
        total, update = self._total, self._update
        self._slabs.run(_compose, np.float32(step), self._per_node, total, update)
        self._total, self._update = update, total
        taps = field_taps(self._settings.field_sigma, step, self._stride)
        self._slabs.smooth(self._total, taps, self._one)

    def displacement(self) -> Array:
        """Return the total (z, y, x, 3)."""
        return self._total


def update_taps(sigma: Sequence[float], stride: Sequence[int]) -> list[Array]:
    """Return the weights that smooth an update, the mean over a node's voxels."""
    return [
        node_taps(max(length**2 - (s**2 - 1) / 12, 0.0) ** 0.5, s)
        for length, s in zip(sigma, stride, strict=True)
    ]


def field_taps(
    sigma: Sequence[float], step: float, stride: Sequence[int]
) -> list[Array]:
    """Return the weights that smooth the total after an update of at most ``step``."""
    return [
        node_taps(length * step**0.5, s)
        for length, s in zip(sigma, stride, strict=True)
    ]


def _slope(values: list[float]) -> float:
    place = np.arange(len(values)) - (len(values) - 1) / 2
    return float((place * values).sum() / (place**2).sum())


def summed_forces(
    shape: tuple[int, int, int], forces: Sequence[Sequence[Kernel]]
) -> tuple[Kernel, ...]:
    """Return the kernels of the sum of several forces; the energy is their mean."""
    if len(forces) == 1:
        return tuple(forces[0])
    own, sums = np.zeros((*shape, 3), np.float32), np.zeros((shape[0], 2))

    def push(
        start: int, stop: int, displacement: Array, update: Array, totals: Totals
    ) -> None:
        update[start:stop], totals[start:stop] = 0, 0
        for *_, last in forces:
            last(start, stop, displacement, own, sums)
            update[start:stop] += own[start:stop]
            totals[start:stop] += sums[start:stop]

    return (*(kernel for force in forces for kernel in force[:-1]), push)


class _Slabs:
    """Runs kernels on slabs of planes or rows, in threads if there are several."""

    def __init__(self, shape: tuple[int, int, int], threads: int) -> None:
        self._slabs = []
        for size in shape[:2]:
            edges = np.linspace(0, size, max(1, min(threads, size // 4)) + 1)
            self._slabs.append(list(itertools.pairwise(edges.astype(int).tolist())))
        most = max(map(len, self._slabs))
        self._pool = ThreadPoolExecutor(most) if most > 1 else None

    def close(self) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown()

    def run(
        self, kernel: Callable[..., Any], *arguments: Any, axis: int = 0
    ) -> list[Any]:
        """Call ``kernel(start, stop, *arguments)`` for every slab."""
        slabs = self._slabs[axis]
        if self._pool is None or len(slabs) == 1:
            return [kernel(*slab, *arguments) for slab in slabs]
        calls = [self._pool.submit(kernel, *slab, *arguments) for slab in slabs]
        return [call.result() for call in calls]

    def smooth(self, field: Array, taps: Sequence[Array], resistance: Array) -> float:
        """Smooth and divide a field in place; return the longest vector's length."""
        self.run(smooth_planes, field, taps[1], taps[2])
        squares = self.run(smooth_across, field, taps[0], resistance, axis=1)
        return float(np.sqrt(max(squares)))


@compiled
def _compose(start, stop, step, per_node, before, update):  # type: ignore[no-untyped-def]
    """Replace an update by the total that applies it first, ``v + before(x + v)``.

    Vectors longer than ``step`` voxels are shortened to it. ``per_node`` converts
    voxels to nodes.
    """
    nz, ny, nx = before.shape[:3]
    values, one = before.reshape(-1), np.float32(1)
    dz, dy, dx = cell_steps((nz, ny, nx), 3)
    none, second, third = np.uintp(0), np.uintp(1), np.uintp(2)
    for k in range(start, stop):
        for j in range(ny):
            for i in range(nx):
                vz = update[k, j, i, 0]
                vy = update[k, j, i, 1]
                vx = update[k, j, i, 2]
                squared = vz * vz + vy * vy + vx * vx
                if squared > step * step:
                    shorter = step / np.sqrt(squared)
                    vz *= shorter
                    vy *= shorter
                    vx *= shorter
                # An integer plus float32 would be float64, at half the speed.
                z, fz, _ = cell(np.float32(k) + per_node[0] * vz, nz)
                y, fy, _ = cell(np.float32(j) + per_node[1] * vy, ny)
                x, fx, _ = cell(np.float32(i) + per_node[2] * vx, nx)
                base = np.uintp(((z * ny + y) * nx + x) * 3)
                for corner in range(4):
                    a = base + (dz if corner // 2 else none)
                    a += dy if corner % 2 else none
                    b = a + dx
                    w = fz if corner // 2 else one - fz
                    w *= fy if corner % 2 else one - fy
                    left, right = w * (one - fx), w * fx
                    vz += left * values[a] + right * values[b]
                    vy += left * values[a + second] + right * values[b + second]
                    vx += left * values[a + third] + right * values[b + third]
                update[k, j, i, 0] = vz
                update[k, j, i, 1] = vy
                update[k, j, i, 2] = vx
