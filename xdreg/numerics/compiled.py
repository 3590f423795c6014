"""Whether the compiled kernels of a metric are stored, so that nothing compiles."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xdreg.numerics import correlation_kernels, descriptors
from xdreg.numerics.kernel_files import is_stored

if TYPE_CHECKING:
    from collections.abc import Iterable

#: A kernel of each metric, compiled together with all others that a block needs.
KERNELS = {"lncc": correlation_kernels.force, "mind": descriptors.force}


def are_stored(metrics: Iterable[str]) -> bool:
    """Return whether a new process on this machine finds what metrics need compiled.

    ``"auto"`` needs those of all metrics. Metrics without kernels of their own need
    some of those of ``"lncc"``.
    """
    names = {name for m in metrics for name in (KERNELS if m == "auto" else (m,))}
    needed = {KERNELS.get(name, KERNELS["lncc"]) for name in names}
    return all(map(is_stored, needed))
