"""Whether the compiled kernels of a metric are stored, so that nothing compiles."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xdreg.numerics import correlation_kernels, descriptors

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
    return all(map(_is_stored, needed))


def _is_stored(kernel: Any) -> bool:
    source = Path(kernel.py_func.__code__.co_filename)
    python = f"py{sys.version_info.major}{sys.version_info.minor}"
    name = f"{source.stem}.{kernel.py_func.__name__}-*.{python}.nbi"
    changed = source.stat().st_mtime
    found = Path(kernel.stats.cache_path).glob(name)
    return any(file.stat().st_mtime >= changed for file in found)
