"""The kind of device that the blocks of a run go to, decided when it is planned."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from xdreg.errors import InputError
from xdreg.numerics.devices import Gpu, look_for_gpu
from xdreg.registration.cluster import active_client, workers_of

if TYPE_CHECKING:
    from xdreg.stages import Device

#: The name of GPUs among the resources of Dask's workers, as in its documentation.
RESOURCE = "GPU"

#: Seconds to wait for an answer of all workers.
PATIENCE = 30.0


def settled_device(wanted: Device) -> tuple[Device, int]:
    """Return ``"cpu"`` or ``"cuda"``, and the memory of the smallest GPU in bytes.

    Raises
    ------
    InputError
        If ``"cuda"`` is wanted and there is no GPU.
    """
    if wanted == "cpu":
        return wanted, 0
    gpus = _gpus()
    without = {where: gpu for where, gpu in gpus.items() if gpu.problem}
    if not without:
        return "cuda", min(gpu.memory for gpu in gpus.values())
    if wanted == "auto":
        return "cpu", 0
    where, gpu = next(iter(without.items()))
    msg = f"device='cuda' needs a GPU, and {where} has none: {gpu.problem}. "
    if len(without) < len(gpus):
        msg += (
            f"Start the workers that have one with --resources {RESOURCE}=1, or "
            "register on the CPU"
        )
    else:
        msg += "Or register on the CPU"
    raise InputError(msg, device="cpu")


def block_resources(device: str) -> dict[str, int]:
    """Return what Dask's workers must have for a block on a device."""
    if device == "cuda" and any(map(_declares, _workers())):
        return {RESOURCE: 1}
    return {}


def _gpus() -> dict[str, Gpu]:
    """Return the GPU of every process that may be given blocks, by its name."""
    workers = _workers()
    if not workers:
        return {"this process": look_for_gpu()}
    chosen = list(filter(_declares, workers)) or workers
    found = _asked([worker["address"] for worker in chosen])
    return {f"worker {address}": gpu for address, gpu in found.items()}


def _workers() -> list[dict[str, Any]]:
    """Return what is known of the workers of the active cluster, if there is one."""
    client = active_client()
    return [] if client is None else workers_of(client)


def _declares(worker: dict[str, Any]) -> bool:
    return bool(worker.get("resources", {}).get(RESOURCE))


def _asked(addresses: list[str]) -> dict[str, Gpu]:
    """Ask workers for their GPUs."""
    client = active_client()
    found = client.run(look_for_gpu, workers=addresses)
    if asyncio.iscoroutine(found):  # of an asynchronous client
        future = asyncio.run_coroutine_threadsafe(found, client.loop.asyncio_loop)
        found = future.result(PATIENCE)
    return dict(found)
