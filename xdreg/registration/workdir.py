"""The work directory of a run, from which an interrupted run is resumed.

::

    lock                    the process that works here, if any
    run.json                manifest: sources, geometry, options, versions
    fixed_levels, moving_levels    pyramid levels that the image lacks
    fixed_foreground.zarr, moving_foreground.zarr    masks that were found
    choice.json             the chosen metric, and the pose found with it
    stage_00 … stage_NN
        linear.json         of a linear stage: its matrix, diagnostics and pose
        patches             one chunk per block: its residual displacement
        records             one chunk per block: its diagnostics, written last
        errors              one text file per failed or unreadable block
        stopped             exists once the run was told to stop
        agreement.json      the blocks rejected as outliers
        consensus.json      of a stage with a consensus: its matrix and residuals
        disagreement        one chunk per block: its difference from the blended field
        field               the displacement field after the stage

A block is done when its record exists, so an interrupted run goes on with the blocks
that have none. After a power cut a file may exist without its content. Arrays carry
checksums, and chunks that fail them count as missing.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec

from xdreg.errors import InputError, StoreError, XdregError
from xdreg.stores.locks import LOCK, Lock, temporary_directory
from xdreg.stores.paths import as_address, is_remote
from xdreg.stores.posix import sync_disks, sync_folder

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from xdreg.partition import BlockStatus

_PARTIAL = ".part"

#: Key of the manifest that may change between calls: limits decide which blocks are
#: given up, and do not change the results of the others.
LIMITS = "limits"

#: Error numbers of disks that are full, read-only or gone.
_DISK_ERRORS = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM),
    *(errno.EIO, errno.ESTALE, errno.ENODEV, errno.ENOTCONN, errno.ENOENT),
    errno.ENOTDIR,
)


class WorkDirectory:
    """A directory that holds one run.

    Parameters
    ----------
    path
        Path of the directory, created if it does not exist. None creates a temporary
        one that is removed when Python ends, or by the next run if Python is killed.

    Raises
    ------
    InputError
        If the path is a URL.
    StoreError
        If the directory cannot be created.
    """

    def __init__(self, path: str | Path | None) -> None:
        self.temporary = path is None
        if path is None:
            self.path = temporary_directory("run-")
            return
        address = as_address(path, "workdir")
        if is_remote(address):
            msg = (
                f"workdir must be a local or shared directory, got {address}; write "
                "the result to a URL with xdreg.save"
            )
            raise InputError(msg)
        self.path = Path(address).expanduser().resolve()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            msg = f"workdir {self.path} cannot be made: {error.strerror}"
            raise StoreError(msg) from error

    def lock(self) -> Lock:
        """Return the lock of the directory, a context manager for one run at a time."""
        return Lock(self.path)

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Turn errors of a full, read-only or lost disk into a helpful `StoreError`."""
        try:
            yield
        except XdregError:
            raise
        except OSError as error:
            if error.errno not in _DISK_ERRORS:
                raise
            msg = (
                f"workdir {self.path} cannot be used: {error}. Make sure that it "
                "exists, has space and is writable; "
            )
            if self.temporary:
                msg += "it is temporary: to keep finished blocks, choose a directory"
                raise StoreError(msg, workdir=...) from error
            msg += "what is done is kept: run the same again to go on from there"
            raise StoreError(msg) from error

    def claim(self, manifest: dict[str, Any]) -> None:
        """Store the manifest of a run, or compare it with the stored one.

        Raises
        ------
        InputError
            If the directory is in use, holds another run, or holds other files.
        StoreError
            If it cannot be written to, or its manifest is damaged.
        """
        with self.lock():
            self._claim(manifest)

    def _claim(self, manifest: dict[str, Any]) -> None:
        file = self.path / "run.json"
        # Through JSON and back, so that tuples and lists compare equal.
        manifest = json.loads(json.dumps(manifest))
        if not file.exists():
            known = {LOCK, file.with_suffix(_PARTIAL).name}
            if {entry.name for entry in self.path.iterdir()} - known:
                msg = f"workdir {self.path} is not empty and holds no run; use another"
                raise InputError(msg)
            write_json(file, manifest)
            return
        earlier = read_json(file)
        if earlier is None:
            msg = (
                f"{file} is damaged, so the run in it is not known; remove the work "
                "directory, or use another one"
            )
            raise StoreError(msg)
        changed = _differences(earlier, manifest)
        if changed:
            msg = (
                f"workdir {self.path} holds another registration; use another "
                f"directory or remove it. What differs: {changed}"
            )
            raise InputError(msg)
        if earlier != manifest:
            write_json(file, manifest)

    def stage(self, number: int) -> Path:
        """Return the directory of a stage."""
        return self.path / f"stage_{number:02d}"

    def forget(self, number: int, statuses: Sequence[BlockStatus]) -> None:
        """Remove a stage's blocks of some statuses, and all that depends on them.

        Dependent files are removed first, so that a call interrupted here finds the
        blocks again.
        """
        folder = self.stage(number)
        if not statuses or read_json(folder / "records" / "zarr.json") is None:
            return
        records = zarr.open_array(folder / "records", mode="r+")
        status = np.full(records.shape[:-1], np.nan)
        for index in np.ndindex(status.shape):
            record = intact(records, index)
            if record is not None:
                status[index] = record[0]
        chosen = np.argwhere(np.isin(status, statuses))
        if not len(chosen):
            return
        for later in self.path.glob("stage_*"):
            if later.name > folder.name:
                shutil.rmtree(later)
        for name in ("field", "disagreement"):
            shutil.rmtree(folder / name, ignore_errors=True)
        for name in ("agreement.json", "consensus.json"):
            (folder / name).unlink(missing_ok=True)
        for block in chosen:
            name = ".".join(map(str, block))
            for message in (folder / "errors").glob(f"{name}.*"):
                message.unlink()
            (folder / "records" / f"{name}.0").unlink(missing_ok=True)

    def discard_patches(self, number: int) -> None:
        """Remove a stage's patches from a temporary directory once they are blended."""
        if self.temporary:
            shutil.rmtree(self.stage(number) / "patches", ignore_errors=True)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically, even in a power cut."""
    partial = path.with_suffix(_PARTIAL)
    with partial.open("w") as file:
        file.write(json.dumps(value, indent=1))
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    sync_folder(path.parent)


def read_json(path: Path) -> Any:
    """Return the content of a JSON file; None if it is missing or damaged."""
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return None


def settle(partial: Path, path: Path) -> None:
    """Rename a finished directory once all of it has reached the disk."""
    sync_disks()
    partial.rename(path)


def open_array(
    path: Path,
    shape: Sequence[int],
    chunks: Sequence[int],
    fill: float,
    *,
    compress: bool = False,
) -> zarr.Array[Any]:
    """Open a float32 array of a run, creating it if it does not exist.

    Chunk names are flat (``0.1.2``), so that one listing shows which are done. Chunks
    carry a checksum. They are not compressed by default: displacements hardly compress,
    and every patch is read up to 27 times.
    """
    if read_json(path / "zarr.json") is not None:
        return zarr.open_array(path, mode="r+")
    # Damaged metadata is written again; the chunks next to it are kept.
    (path / "zarr.json").unlink(missing_ok=True)
    return zarr.create_array(
        path,
        shape=tuple(shape),
        chunks=tuple(chunks),
        dtype="float32",
        fill_value=fill,
        compressors=[*([ZstdCodec()] if compress else []), Crc32cCodec()],
        chunk_key_encoding={"name": "v2", "separator": "."},
        config={"write_empty_chunks": True},
    )


def intact(array: zarr.Array[Any], index: tuple[Any, ...]) -> NDArray[Any] | None:
    """Return whole chunks of an array; None if one is missing, cut off or altered."""
    try:
        values = np.asarray(array[index])
    except OSError:
        raise
    except Exception:  # Decoders raise errors of many kinds.
        return None
    fill = array.fill_value
    missing = np.isnan(values) if np.isnan(fill) else values == fill
    return None if missing.all() else values


def _differences(earlier: dict[str, Any], now: dict[str, Any]) -> str:
    """Return the entries in which two manifests differ, as text."""
    pairs = {
        key: (earlier.get(key), now.get(key)) for key in earlier.keys() | now.keys()
    }
    return "; ".join(
        f"{key}: {_short(old)} before, {_short(new)} now"
        for key, (old, new) in sorted(pairs.items())
        if key != LIMITS and _without_address(old) != _without_address(new)
    )


def _without_address(entry: object) -> object:
    """Return what identifies an image: its token, not how its address was written."""
    if isinstance(entry, dict) and "token" in entry:
        return {key: value for key, value in entry.items() if key != "source"}
    return entry


def _short(value: object, limit: int = 160) -> str:
    text = json.dumps(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"
