"""The work directory of a run, from which an interrupted run is resumed.

::

    lock                    the process that works here, if any
    run.json                manifest: sources, geometry, options, versions
    fixed_levels, moving_levels    pyramid levels that the image lacks, and a JSON file
                            for each that records its chunks, written last
    fixed_foreground.zarr, moving_foreground.zarr    masks that were found, likewise
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
that have none. After a power cut a file may exist without its content. Chunks and JSON
files carry checksums, and those that fail them count as missing.
"""

from __future__ import annotations

import contextlib
import copy
import errno
import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import google_crc32c

from xdreg.errors import InputError, StoreError, XdregError
from xdreg.registration.run_files import check_no_foreign, made_in, stages_after
from xdreg.stores.files import read_file
from xdreg.stores.identity import as_damaged, same_voxels
from xdreg.stores.locks import LOCK, Lock, temporary_directory
from xdreg.stores.paths import as_address, is_remote, local_path
from xdreg.stores.posix import sync_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


_PARTIAL = ".part"

#: Beginning of the name of a stage's folder.
_STAGE = "stage_"

#: A JSON file of a run: its content between these, with a checksum before it.
_HEAD, _TAIL = b'{"checksum": "%08x", "content":\n', b"\n}\n"

#: Most bytes of a JSON file; an outlier report of a million blocks has 30 million.
MOST_BYTES = 2**30

#: Most differences between two runs that a message names.
MOST_CHANGES = 6

#: Key of the manifest that may change between calls: limits decide which blocks are
#: given up, and do not change the results of the others.
LIMITS = "limits"

#: Key of an image in the manifest: what its voxels are known by, for each level.
VOXELS = "voxels"

#: Suffix of the file of a block with a chunk that it could not read.
DAMAGED = ".chunk"

#: Error numbers of disks that are full, read-only or gone.
_DISK_ERRORS = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM),
    *(errno.EIO, errno.ESTALE, errno.ENODEV, errno.ENOTCONN, errno.ENOENT),
)

#: Error numbers where something else lies in the place of a file or a folder.
_IN_THE_WAY = (
    *(errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY, errno.ELOOP),
    *(errno.ENXIO, errno.EINVAL),
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
        If the path is empty or a URL.
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
        if not address:
            msg = "workdir is an empty path; name a directory, or leave it out"
            raise InputError(msg)
        self.path = local_path(address)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self.path = self.path.resolve(strict=True)
        except OSError as error:
            msg = f"workdir {self.path} cannot be made: {error.strerror}"
            raise StoreError(msg) from error

    def below(self, *names: str) -> WorkDirectory:
        """Return the directory of one of several runs, in this one."""
        inner = copy.copy(self)
        inner.path = self.path.joinpath(*names)
        with self.writing():
            inner.path.mkdir(parents=True, exist_ok=True)
        return inner

    def lock(self) -> Lock:
        """Return the lock of the directory, a context manager for one run at a time."""
        return Lock(self.path)

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Turn errors of a disk and of what lies there into a helpful `StoreError`."""
        try:
            yield
        except XdregError:
            raise
        except OSError as error:
            if error.errno in _IN_THE_WAY:
                msg = (
                    f"workdir {self.path} holds what the run did not make: {error}; "
                    "move that away, and run the same again"
                )
                raise StoreError(msg) from error
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

    def claim(
        self,
        manifest: dict[str, Any],
        again: Callable[[], dict[str, Any]] | None = None,
        *,
        fresh: bool = False,
    ) -> None:
        """Store the manifest of a run, or compare it with the stored one.

        Parameters
        ----------
        manifest
            The description of the run.
        again
            Describes it again, to see whether only damaged chunks were put right.
        fresh
            Remove an earlier run before that. Files that no run made stay next to it;
            in its folders they are an error, before anything is removed.

        Raises
        ------
        InputError
            If the directory is in use, holds another run, or holds other files.
        StoreError
            If it cannot be written to, or its manifest is damaged.
        """
        with self.lock():
            self._claim(manifest, again, fresh)

    def _claim(
        self,
        manifest: dict[str, Any],
        again: Callable[[], dict[str, Any]] | None,
        fresh: bool,
    ) -> None:
        file = self.path / "run.json"
        # Through JSON and back, so that tuples and lists compare equal.
        manifest = json.loads(json.dumps(manifest))
        earlier = _read_manifest(file) if file.exists() else None
        if earlier is None and file.exists() and not _is_framed(file):
            msg = (
                f"{file} is damaged, or not of a run; use another work directory, or "
                "remove this one yourself"
            )
            raise StoreError(msg)
        # An empty manifest is what a removal left that was interrupted.
        if file.exists() and (fresh or earlier == {}):
            self._remove_run(file)
            write_json(file, manifest)
            return
        if not file.exists():
            known = {LOCK, file.with_suffix(_PARTIAL).name}
            if {entry.name for entry in self.path.iterdir()} - known:
                msg = f"workdir {self.path} is not empty and holds no run; use another"
                raise InputError(msg)
            write_json(file, manifest)
            return
        if earlier is None:
            msg = (
                f"{file} is damaged, so the run in it is not known; use another work "
                "directory, or start anew in this one"
            )
            raise StoreError(msg, fresh=True)
        changed = differences(earlier, manifest)
        if changed and again is not None and self._repaired(earlier, again):
            write_json(file, manifest)
            return
        if changed:
            msg = (
                f"workdir {self.path} holds another registration. What differs: "
                f"{changed}. Use another directory, or start anew in this one"
            )
            raise InputError(msg, fresh=True)
        # What is known of the images stays as it was when the first block ran.
        if earlier.get(LIMITS) != manifest.get(LIMITS):
            write_json(file, earlier | {LIMITS: manifest[LIMITS]})

    def _repaired(
        self, earlier: dict[str, Any], again: Callable[[], dict[str, Any]]
    ) -> bool:
        """Return whether all that changed are chunks that could not be read before."""
        places = f"{_STAGE}*/errors/*", "*_levels*/*", "*"
        files = [f for p in places for f in self.path.glob(f"{p}{DAMAGED}")]
        with contextlib.suppress(ValueError, TypeError):
            stamps = dict(json.loads(read_file(file, MOST_BYTES)) for file in files)
            with as_damaged(stamps):
                now = json.loads(json.dumps(again()))
            same = not differences(earlier, now)
            if same:
                for file in files:
                    file.unlink()
            return same
        return False

    def _remove_run(self, file: Path) -> None:
        """Remove all that a run made, and leave an empty manifest."""
        entries = made_in(self.path)
        check_no_foreign(self.path, entries)
        write_json(file, {})
        for entry in entries:
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()

    def stage(self, number: int) -> Path:
        """Return the directory of a stage."""
        return self.path / f"{_STAGE}{number:02d}"

    def forget_after(self, number: int) -> None:
        """Remove all that depends on the blocks of a stage, later stages included.

        Raises
        ------
        InputError
            If there are files that no run made.
        """
        folder, later = self.stage(number), stages_after(self.path, number)
        arrays = [folder / name for name in ("field", "disagreement")]
        check_no_foreign(self.path, [*later, *arrays])
        for stage in later:
            shutil.rmtree(stage)
        for name in ("field", "disagreement"):
            shutil.rmtree(folder / name, ignore_errors=True)
        for name in ("agreement.json", "consensus.json"):
            (folder / name).unlink(missing_ok=True)

    def discard_patches(self, number: int) -> None:
        """Remove a stage's patches from a temporary directory once they are blended."""
        if self.temporary:
            shutil.rmtree(self.stage(number) / "patches", ignore_errors=True)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file with a checksum, atomically, even in a power cut."""
    content = json.dumps(value, indent=1).encode()
    partial = path.with_suffix(_PARTIAL)
    # Made anew: what lies there may be a link.
    partial.unlink(missing_ok=True)
    with partial.open("xb") as file:
        file.write(_HEAD % _checksum(path, content) + content + _TAIL)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    sync_folder(path.parent)


def read_json(path: Path) -> Any:
    """Return the content of a file of `write_json`; None if missing or altered.

    Raises
    ------
    StoreError
        If there is something other than a file, or it cannot be read.
    """
    try:
        stored = read_file(path, MOST_BYTES)
    except FileNotFoundError:
        return None
    head = len(_HEAD % 0)
    content = stored[head : -len(_TAIL)]
    if stored != _HEAD % _checksum(path, content) + content + _TAIL:
        return None
    return json.loads(content)


def _is_framed(path: Path) -> bool:
    """Return whether a file begins as the JSON files of a run do."""
    return read_file(path, MOST_BYTES).startswith(_HEAD[:13])


def _read_manifest(path: Path) -> Any:
    """Return a run's manifest, also that of an earlier version; None if damaged."""
    stored = read_json(path)
    if stored is None and not _is_framed(path):
        with contextlib.suppress(ValueError, RecursionError):
            plain = json.loads(read_file(path, MOST_BYTES))
            if isinstance(plain, dict) and {"stages", "versions"} <= plain.keys():
                return plain
    return stored


def _checksum(path: Path, content: bytes) -> int:
    """Return the checksum of a file's content and of where it belongs."""
    stage = path.parent.name if path.parent.name.startswith(_STAGE) else ""
    number: int = google_crc32c.value(f"{stage}/{path.name}\n".encode() + content)
    return number


def differences(earlier: dict[str, Any], now: dict[str, Any]) -> str:
    """Return what differs between two manifests, as text."""
    names = sorted((earlier.keys() | now.keys()) - {LIMITS})
    changes = [
        change
        for name in names
        for change in _changes(name, earlier.get(name), now.get(name))
    ]
    more = len(changes) - MOST_CHANGES
    return "; ".join(changes[:MOST_CHANGES]) + (f"; and {more} more" * (more > 0))


def _changes(name: str, old: Any, new: Any) -> Iterator[str]:
    """Yield what differs between two entries, down to single values."""
    if same_voxels(*map(_without_address, (old, new))):
        return
    dicts = isinstance(old, dict) and isinstance(new, dict)
    if dicts and VOXELS not in new:
        for key in sorted(old.keys() | new.keys()):
            yield from _changes(f"{name}: {key}", old.get(key), new.get(key))
    elif name == "stages" and len(old or []) == len(new):
        for number, pair in enumerate(zip(old, new, strict=True)):
            yield from _changes(f"stage {number} ({pair[1].get('name')})", *pair)
    elif name == "stages":
        were, are = (
            ", ".join(str(stage.get("name")) for stage in stages or [])
            for stages in (old, new)
        )
        yield f"the stages were {were or 'none'}, now {are}"
    elif dicts:
        yield f"{name}: {_change(old, new)}"
    else:
        yield f"{name} was {_short(old)}, now {_short(new)}"


def _without_address(entry: object) -> object:
    """Return what identifies an image: its voxels, not how its address was written."""
    if isinstance(entry, dict) and "source" in entry:
        return {key: value for key, value in entry.items() if key != "source"}
    return entry


def _change(old: Any, new: Any) -> str:
    both = isinstance(old, dict) and isinstance(new, dict) and VOXELS in new
    if both and all(old.get(k) == new[k] for k in new.keys() - {"source", VOXELS}):
        return (
            f"{new['source'] or 'the array'} has other voxels, or its files other "
            "times (a copy keeps them by cp -a)"
        )
    return f"{_short(old)} before, {_short(new)} now"


def _short(value: object, limit: int = 160) -> str:
    text = json.dumps(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"
