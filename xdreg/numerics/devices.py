"""The GPU of this process, and the array namespace of it."""

from __future__ import annotations

from dataclasses import dataclass

from xdreg.numerics.arrays import ArraySpace

#: What provides CuPy.
REMEDY = 'pip install "xdreg[cuda]"'


@dataclass(frozen=True)
class Gpu:
    """Why a process has no GPU to work on, None if it has one, and its memory."""

    problem: str | None
    memory: int = 0


def look_for_gpu() -> Gpu:
    """Return what this process knows of its GPU."""
    try:
        import cupy  # an extra
        from cupyx.scipy import ndimage  # noqa: F401
    except ImportError as error:
        return Gpu(f"CuPy cannot be imported ({error}); {REMEDY}")
    try:
        if cupy.cuda.runtime.getDeviceCount():
            return Gpu(None, int(cupy.cuda.Device().mem_info[1]))
    except cupy.cuda.runtime.CUDARuntimeError as error:
        return Gpu(f"CuPy finds no GPU ({error}); see nvidia-smi for the driver")
    return Gpu("CuPy finds no GPU; see nvidia-smi and CUDA_VISIBLE_DEVICES")


def gpu_space() -> ArraySpace:
    """Return the array namespace of this process' GPU."""
    import cupy
    from cupyx.scipy import ndimage

    free = cupy.get_default_memory_pool().free_all_blocks
    return ArraySpace(cupy, ndimage, cupy.cuda.Device().pci_bus_id, free)
