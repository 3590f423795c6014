"""The work directory of a run: where blocks leave their patches, and what resume reads.

::

    lock                    who works here, while someone does
    run.json                what was run: sources, geometry, options, versions
    fixed_levels, moving_levels    pyramid levels that the store did not have
    fixed_foreground, moving_foreground    masks that were found, see `foreground`
    choice.json             the metric that was chosen, and the pose found on the way
    stage_00 … stage_NN
        linear.json         of a linear stage: its matrix, diagnostics and pose
        patches             one chunk per block: its residual displacement
        records             one chunk per block: its diagnostics, written last
        agreement.json      which blocks their neighbours contradict
        errors              one text file per block that failed
        stopped             there once the run was told to stop
        field               the displacement field after the stage

A block counts as done when its record exists, so a run that was interrupted goes on
with the blocks that are missing. After a power cut a file may be there and its content
not: arrays carry checksums, and what fails them counts as missing.
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

_MANIFEST = "run.json"

_PARTIAL = ".part"

#: What may change from one call to the next: it decides which blocks are given up, and
#: no bit of those that are not.
LIMITS = "limits"

#: What a disk that is full, read-only or gone answers.
DISK_ERRORS = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM),
    *(errno.EIO, errno.ESTALE, errno.ENODEV, errno.ENOTCONN, errno.ENOENT),
    errno.ENOTDIR,
)


class WorkDirectory:
    """A directory that holds one run.

    Parameters
    ----------
    path
        Where to keep the run; None makes a temporary directory that is removed when
        Python ends, or by the next run should Python be killed.
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
        """Return the right to work here, a context manager; refused to a second run."""
        return Lock(self.path)

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Turn what a full, read-only or lost disk raises into an error that helps."""
        try:
            yield
        except XdregError:
            raise
        except OSError as error:
            if error.errno not in DISK_ERRORS:
                raise
            msg = (
                f"workdir {self.path} cannot be used: {error}. See that it is there, "
                "has room and may be written to; "
            )
            if self.temporary:
                msg += "it is temporary: to keep what is done, choose a place"
                raise StoreError(msg, workdir=...) from error
            msg += "what is done is kept: run the same again to go on from there"
            raise StoreError(msg) from error

    def claim(self, manifest: dict[str, Any]) -> None:
        """Record what runs here, or check that it is what ran here before.

        Raises
        ------
        InputError
            If the directory is in use, or holds another run, or files that are no run.
        StoreError
            If it cannot be written to, or its manifest is damaged.
        """
        with self.lock():
            self._claim(manifest)

    def _claim(self, manifest: dict[str, Any]) -> None:
        file = self.path / _MANIFEST
        # Through JSON and back, so that tuples and lists compare equal.
        manifest = json.loads(json.dumps(manifest))
        if not file.exists():
            known = {LOCK, file.with_suffix(_PARTIAL).name}
            if any(entry.name not in known for entry in self.path.iterdir()):
                msg = (
                    f"workdir {self.path} is not empty and holds no run; choose another"
                )
                raise InputError(msg)
            write_json(file, manifest)
            return
        earlier = read_json(file)
        if earlier is None:
            msg = (
                f"{file} is damaged, so what ran here cannot be told; remove the work "
                "directory, or use another"
            )
            raise StoreError(msg)
        changed = [
            f"{key}: {_short(earlier.get(key))} before, {_short(manifest.get(key))} now"
            for key in sorted(earlier.keys() | manifest.keys())
            if key != LIMITS
            and _without_address(earlier.get(key))
            != _without_address(manifest.get(key))
        ]
        if changed:
            msg = (
                f"workdir {self.path} holds another registration; use another "
                f"directory or remove it. What differs: {'; '.join(changed)}"
            )
            raise InputError(msg)
        if earlier != manifest:
            write_json(file, manifest)

    def stage(self, number: int) -> Path:
        """Return the directory of a stage."""
        return self.path / f"stage_{number:02d}"

    def forget(self, number: int, statuses: Sequence[BlockStatus]) -> None:
        """Forget a stage's blocks of some statuses, and all that was made with them.

        What follows from them goes first: a call that is cut off here finds the blocks
        again.
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
        (folder / "agreement.json").unlink(missing_ok=True)
        for block in chosen:
            name = ".".join(map(str, block))
            (folder / "errors" / f"{name}.txt").unlink(missing_ok=True)
            (folder / "records" / f"{name}.0").unlink(missing_ok=True)

    def discard_patches(self, number: int) -> None:
        """Remove a stage's patches from a temporary directory: its field holds them."""
        if self.temporary:
            shutil.rmtree(self.stage(number) / "patches", ignore_errors=True)


def write_json(path: Path, value: Any) -> None:
    """Write a file that appears whole or not at all, be it in a power cut."""
    partial = path.with_suffix(_PARTIAL)
    with partial.open("w") as file:
        file.write(json.dumps(value, indent=1))
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    sync_folder(path.parent)


def read_json(path: Path) -> Any:
    """Read such a file; None where it is missing or damaged."""
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return None


def settle(partial: Path, path: Path) -> None:
    """Give a finished directory its name once all of it has reached the disk."""
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
    """Open a float32 array of a run, making it where it does not exist.

    Chunk names are flat (``0.1.2``), so that one listing shows what is done. Chunks
    carry a checksum. Displacements hardly compress, and every patch is read up to 27
    times.
    """
    if read_json(path / "zarr.json") is not None:
        return zarr.open_array(path, mode="r+")
    # Damaged, it says nothing that is not known; chunks that lie beside it are kept.
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
    """Read chunks; None where one of them is missing, cut off or altered.

    Parameters
    ----------
    array
        As `open_array` makes it; its fill value all over stands for what is missing.
    index
        Of whole chunks.
    """
    try:
        values = np.asarray(array[index])
    except OSError:
        raise
    except Exception:  # whatever decoding makes of what is not there
        return None
    fill = array.fill_value
    missing = np.isnan(values) if np.isnan(fill) else values == fill
    return None if missing.all() else values


def _without_address(entry: object) -> object:
    """Return what tells an image: its token, not the way its address was written."""
    if isinstance(entry, dict) and "token" in entry:
        return {key: value for key, value in entry.items() if key != "source"}
    return entry


def _short(value: object, limit: int = 160) -> str:
    text = json.dumps(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"
