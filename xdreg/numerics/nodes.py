"""Displacements on nodes: one per voxel, or one for every second voxel along an axis.

Updates are smoothed by a few voxels, so nodes two voxels apart hold what they say, at
an eighth of the work in a volume. A node lies in the middle of its cell of voxels.
Between nodes displacements are linear, and beyond the outer ones too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from xdreg.numerics.filters import exact

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Shape = tuple[int, int, int]

#: Nodes may be two voxels apart along axes of at least this many voxels, where updates
#: are smoothed by at least so many.
LEAST_SIZE = 32
LEAST_SIGMA = 1.5


@dataclass(frozen=True)
class Nodes:
    """The nodes of the displacements on an image.

    Attributes
    ----------
    voxels
        Shape (z, y, x) of the image.
    stride
        Voxels per node along each axis, 1 or 2. Those of the last node may be fewer.
    """

    voxels: Shape
    stride: Shape = (1, 1, 1)

    @classmethod
    def smoothed(cls, voxels: Shape, sigma: Sequence[float], stride: int) -> Nodes:
        """Return nodes ``stride`` voxels apart where updates are smooth enough.

        ``sigma`` is their smoothing in voxels.
        """
        z, y, x = (
            stride if size >= LEAST_SIZE and length >= LEAST_SIGMA else 1
            for size, length in zip(voxels, sigma, strict=True)
        )
        return cls(voxels, (z, y, x))

    @property
    def shape(self) -> Shape:
        """The number of nodes (z, y, x)."""
        z, y, x = map(nodes_of, self.voxels, self.stride)
        return z, y, x

    def expanded(self, displacement: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the displacement (z, y, x, 3) of every voxel."""
        if self.stride == (1, 1, 1):
            return displacement
        out = np.empty((*self.voxels, 3), np.float32)
        _expand(displacement, self.stride, out)
        return out

    def averaged(self, displacement: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the mean over every node's voxels of a displacement (z, y, x, 3)."""
        if self.stride == (1, 1, 1):
            return displacement
        out = np.zeros((*self.shape, 3), np.float32)
        _average(displacement, self.stride, out)
        return out


@exact
def nodes_of(voxels, stride):  # type: ignore[no-untyped-def]
    """Return the number of nodes along an axis."""
    return (voxels + stride - 1) // stride


@exact
def places(voxels, nodes, stride):  # type: ignore[no-untyped-def]
    """Return the node before every voxel of an axis, the next, and the share of that.

    The share is below 0 and above 1 beyond the outer nodes.
    """
    low, high = np.empty(voxels, np.int64), np.empty(voxels, np.int64)
    share = np.empty(voxels, np.float32)
    for i in range(voxels):
        last = nodes - 1 if stride == 1 else max(nodes - 2, 0)
        low[i] = min(max((i - stride // 2) // stride, 0), last)
        high[i] = low[i] if stride == 1 else min(low[i] + 1, nodes - 1)
        share[i] = (i - stride * low[i]) / stride - 0.25 * (stride // 2)
    return low, high, share


@exact
def _blend(near, far, share, out):  # type: ignore[no-untyped-def]
    for i in range(out.size):
        out[i] = near[i] + share * (far[i] - near[i])


@exact
def row_of(displacement, at_z, at_y, at_x, k, j, scratch, row):  # type: ignore[no-untyped-def]
    """Write the displacement (x, 3) of a row of voxels.

    ``at_z`` to ``at_x`` are the `places` of the axes, ``scratch (3, 3 nodes)`` is work
    space.
    """
    y0, y1, z0, z1 = at_y[0][j], at_y[1][j], at_z[0][k], at_z[1][k]
    for n, z in ((0, z0), (1, z1)):
        near, far = displacement[z, y0].reshape(-1), displacement[z, y1].reshape(-1)
        _blend(near, far, at_y[2][j], scratch[n])
    _blend(scratch[0], scratch[1], at_z[2][k], scratch[2])
    line, low, high, share = scratch[2], at_x[0], at_x[1], at_x[2]
    for i in range(row.shape[0]):
        a, b, w = np.uintp(3 * low[i]), np.uintp(3 * high[i]), share[i]
        for c in range(3):
            d = np.uintp(c)
            row[i, c] = line[a + d] + w * (line[b + d] - line[a + d])


@exact
def _expand(displacement, stride, out):  # type: ignore[no-untyped-def]
    nz, ny, nx = out.shape[:3]
    cz, cy, cx = displacement.shape[:3]
    at_z, at_y = places(nz, cz, stride[0]), places(ny, cy, stride[1])
    at_x = places(nx, cx, stride[2])
    scratch = np.empty((3, 3 * cx), np.float32)
    for k in range(nz):
        for j in range(ny):
            row_of(displacement, at_z, at_y, at_x, k, j, scratch, out[k, j])


@exact
def _average(fine, stride, out):  # type: ignore[no-untyped-def]
    sz, sy, sx = stride
    count = np.zeros(out.shape[:3], np.float32)
    for k in range(fine.shape[0]):
        for j in range(fine.shape[1]):
            for i in range(fine.shape[2]):
                count[k // sz, j // sy, i // sx] += np.float32(1)
                for c in range(3):
                    out[k // sz, j // sy, i // sx, c] += fine[k, j, i, c]
    for c in range(3):
        out[..., c] /= count
