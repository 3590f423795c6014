"""The work directory of a run: where blocks leave their patches, and what resume reads.

::

    run.json                what was run: sources, geometry, options, versions
    fixed_levels, moving_levels    pyramid levels that the store did not have
    fixed_foreground, moving_foreground    masks that were found, see `xdreg.foreground`
    choice.json             the metric that was chosen, and the pose found on the way
    stage_00 … stage_NN
        linear.json         of a linear stage: its matrix, diagnostics and pose
        patches             one chunk per block: its residual displacement
        records             one chunk per block: its diagnostics, written last
        agreement.json      which blocks their neighbours contradict
        errors              one text file per block that failed
        field               the displacement field after the stage

A block counts as done when its record exists, so a run that was interrupted goes on
with the blocks that are missing.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import json
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import zarr

from xdreg.errors import InputError, StoreError, XdregError
from xdreg.paths import as_address, is_remote

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_MANIFEST = "run.json"

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
        Python ends.
    """

    def __init__(self, path: str | Path | None) -> None:
        self.temporary = path is None
        if path is None:
            self.path = Path(tempfile.mkdtemp(prefix="xdreg-"))
            atexit.register(shutil.rmtree, self.path, ignore_errors=True)
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
            remedy = (
                "it is temporary: choose a place with workdir=, then what is done is "
                "kept"
                if self.temporary
                else "what is done is kept; the same call again goes on from there"
            )
            msg = (
                f"workdir {self.path} cannot be used: {error}. See that it is there, "
                f"has room and may be written to; {remedy}"
            )
            raise StoreError(msg) from error

    def claim(self, manifest: dict[str, Any]) -> None:
        """Record what runs here, or check that it is what ran here before.

        Raises
        ------
        InputError
            If the directory holds another run, or files that are no run at all.
        """
        file = self.path / _MANIFEST
        # Through JSON and back, so that tuples and lists compare equal.
        manifest = json.loads(json.dumps(manifest))
        if file.exists():
            earlier = json.loads(file.read_text())
            changed = [
                f"{key}: {_short(earlier.get(key))} before, "
                f"{_short(manifest.get(key))} now"
                for key in sorted(earlier.keys() | manifest.keys())
                if earlier.get(key) != manifest.get(key)
            ]
            if changed:
                msg = (
                    f"workdir {self.path} holds another registration; use another "
                    f"directory or remove it. What differs: {'; '.join(changed)}"
                )
                raise InputError(msg)
            return
        if any(self.path.iterdir()):
            msg = f"workdir {self.path} is not empty and holds no run; choose another"
            raise InputError(msg)
        write_json(file, manifest)

    def stage(self, number: int) -> Path:
        """Return the directory of a stage."""
        return self.path / f"stage_{number:02d}"

    def discard_patches(self, number: int) -> None:
        """Remove a stage's patches from a temporary directory: its field holds them."""
        if self.temporary:
            shutil.rmtree(self.stage(number) / "patches", ignore_errors=True)


def write_json(path: Path, value: Any) -> None:
    """Write a file that appears whole or not at all."""
    partial = path.with_suffix(".part")
    partial.write_text(json.dumps(value, indent=1))
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

    Chunk names are flat (``0.1.2``), so that one listing shows what is done.
    Displacements hardly compress, and every patch is read up to 27 times.
    """
    if (path / "zarr.json").exists():
        return zarr.open_array(path, mode="r+")
    return zarr.create_array(
        path,
        shape=tuple(shape),
        chunks=tuple(chunks),
        dtype="float32",
        fill_value=fill,
        compressors="auto" if compress else None,
        chunk_key_encoding={"name": "v2", "separator": "."},
        config={"write_empty_chunks": True},
    )


def _short(value: object, limit: int = 160) -> str:
    text = json.dumps(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"
