"""Images as OME-Zarr over HTTP, made chunk by chunk as a browser asks for them.

Nothing of the file system is served. A request names an image, a level and a chunk of
what was handed over, read or warped at that moment; anything else is not found. So the
kind of store, its version and its codecs do not matter, and nothing is written.

The server listens to this machine only. Its addresses begin with a secret, so that no
other user of the machine finds the images, and it lets the pages of one viewer read
them, so that no other page in the browser does.
"""

from __future__ import annotations

import json
import logging
import re
import secrets
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import numpy as np

from xdreg.errors import StoreError, XdregError
from xdreg.stores.ome_writer import ome_units

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from xdreg.views.lazy_readers import Reader

_log = logging.getLogger(__name__)

#: The one address that is listened to.
HOST = "127.0.0.1"

#: Voxels of a chunk per axis.
CHUNK = {2: 256, 3: 64}

_CHUNK_KEY = re.compile(r"(\d{1,3})/c((?:/\d{1,9}){2,3})")

#: What a browser has no type for goes as the nearest that it has.
_SENT_AS = {"b1": "u1", "f2": "f4", "f8": "f4", "i8": "f4"}


class ServedImage:
    """An image as the documents and chunks of an OME-Zarr 0.5 store.

    Parameters
    ----------
    name
        What it is called.
    readers
        Its levels, finest first.

    Examples
    --------
    >>> import xdreg
    >>> from xdreg.stores.readers import image_reader
    >>> pair = xdreg.datasets.phantom_pair((48, 56))
    >>> image = ServedImage("fixed", [image_reader(pair.fixed)])
    >>> len(image.get("0/c/0/0")) == 256 * 256 * pair.fixed.dtype.itemsize
    True
    """

    def __init__(self, name: str, readers: Sequence[Reader]) -> None:
        self._readers = tuple(readers)
        self._chunk = (CHUNK[readers[0].grid.ndim],) * readers[0].grid.ndim
        documents = {"zarr.json": self._group(name)}
        for number, reader in enumerate(self._readers):
            documents[f"{number}/zarr.json"] = self._array(reader)
        self._documents = {key: json.dumps(v).encode() for key, v in documents.items()}

    def get(self, key: str) -> bytes | None:
        """Return what a key of the store holds; None where it has no such key."""
        if key in self._documents:
            return self._documents[key]
        match = _CHUNK_KEY.fullmatch(key)
        if match is None or int(match[1]) >= len(self._readers):
            return None
        place = [int(part) for part in match[2].split("/")[1:]]
        return self._chunk_bytes(self._readers[int(match[1])], place)

    def _chunk_bytes(self, reader: Reader, place: Sequence[int]) -> bytes | None:
        shape = reader.grid.shape
        if len(place) != len(shape):
            return None
        starts = [i * size for i, size in zip(place, self._chunk, strict=True)]
        if any(start >= n for start, n in zip(starts, shape, strict=True)):
            return None
        window = [
            slice(start, min(start + size, n))
            for start, size, n in zip(starts, self._chunk, shape, strict=True)
        ]
        values = np.zeros(self._chunk, _sent_type(reader))
        inside = tuple(slice(0, part.stop - part.start) for part in window)
        values[inside] = reader.read(window)
        return values.tobytes()

    def _group(self, name: str) -> dict[str, Any]:
        first = self._readers[0].grid
        unit = ome_units(first.units)
        axes = [
            {"name": dim, "type": "space"} | ({"unit": unit} if unit else {})
            for dim in first.dims
        ]
        datasets = [
            {
                "path": str(number),
                "coordinateTransformations": [
                    {"type": "scale", "scale": list(reader.grid.spacing)},
                    {"type": "translation", "translation": list(reader.grid.origin)},
                ],
            }
            for number, reader in enumerate(self._readers)
        ]
        multiscale = {"name": name, "axes": axes, "datasets": datasets}
        ome = {"version": "0.5", "multiscales": [multiscale]}
        return {"zarr_format": 3, "node_type": "group", "attributes": {"ome": ome}}

    def _array(self, reader: Reader) -> dict[str, Any]:
        endian = {"name": "bytes", "configuration": {"endian": "little"}}
        grid = {"chunk_shape": list(self._chunk)}
        return {
            "zarr_format": 3,
            "node_type": "array",
            "shape": list(reader.grid.shape),
            "data_type": _sent_type(reader).name,
            "chunk_grid": {"name": "regular", "configuration": grid},
            "chunk_key_encoding": {
                "name": "default",
                "configuration": {"separator": "/"},
            },
            "fill_value": 0,
            "codecs": [endian],
            "dimension_names": list(reader.grid.dims),
            "attributes": {},
        }


def _sent_type(reader: Reader) -> np.dtype[Any]:
    kind = f"{reader.dtype.kind}{reader.dtype.itemsize}"
    return np.dtype("<" + _SENT_AS.get(kind, kind))


class ImageServer(ThreadingHTTPServer):
    """Serves images until it is closed; a context manager.

    Parameters
    ----------
    images
        By name, each its levels, finest first.
    origin
        Scheme, host and port of the viewer whose pages may read them, for example
        ``"https://neuroglancer-demo.appspot.com"``.
    port
        Where to listen; 0 takes a free one.

    Raises
    ------
    StoreError
        If the port is taken.

    Examples
    --------
    >>> import xdreg
    >>> from xdreg.stores.readers import image_reader
    >>> pair = xdreg.datasets.phantom_pair((48, 56))
    >>> images = {"fixed": [image_reader(pair.fixed)]}
    >>> with ImageServer(images, origin="https://example.org") as server:
    ...     server.url("fixed").startswith("http://127.0.0.1:")
    True
    """

    daemon_threads = True

    def __init__(
        self, images: Mapping[str, Sequence[Reader]], *, origin: str, port: int = 0
    ) -> None:
        self.images = {
            name: ServedImage(name, readers) for name, readers in images.items()
        }
        self.origin = origin
        self.secret = secrets.token_urlsafe(16)
        try:
            super().__init__((HOST, port), _Handler)
        except OSError as error:
            msg = f"port {port} cannot be listened to: {error.strerror}; take another"
            raise StoreError(msg) from error

    def url(self, name: str) -> str:
        """Return the address of an image."""
        return f"http://{HOST}:{self.server_port}/{self.secret}/{name}"

    def start(self) -> None:
        """Serve in a thread, until the server is closed."""
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def find(self, path: str) -> bytes | None:
        """Return what an address holds; None where there is nothing."""
        _, secret, *rest = path.partition("?")[0].split("/", 3)
        # In constant time, so that the secret cannot be guessed letter by letter.
        known = secrets.compare_digest(secret.encode(), self.secret.encode())
        if not known or len(rest) < 2 or rest[0] not in self.images:
            return None
        return self.images[rest[0]].get(rest[1])


class _Handler(BaseHTTPRequestHandler):
    """Answers one browser."""

    protocol_version = "HTTP/1.1"
    server: ImageServer

    def do_GET(self) -> None:
        """Send a document or a chunk."""
        self._answer(send=True)

    def do_HEAD(self) -> None:
        """Tell about it."""
        self._answer(send=False)

    def do_OPTIONS(self) -> None:
        """Answer what a browser asks before a page may ask for more."""
        self.send_response(204)
        self._let_in()
        self.send_header("Access-Control-Allow-Methods", "GET, HEAD, OPTIONS")
        self.send_header("Access-Control-Allow-Headers", "Range, Cache-Control")
        # A page of the Internet that reads from this machine needs this in Chromium.
        self.send_header("Access-Control-Allow-Private-Network", "true")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _answer(self, *, send: bool) -> None:
        status = 200
        try:
            body = self.server.find(self.path)
        except (XdregError, OSError) as error:
            _log.warning("%s: %s", self.path.rpartition(self.server.secret)[2], error)
            status, body = 500, str(error).encode()
        if body is None:
            status, body = 404, b"not found"
        self.send_response(status)
        self._let_in()
        is_document = status == 200 and self.path.endswith(".json")
        kind = "application/json" if is_document else "application/octet-stream"
        self.send_header("Content-Type", kind)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cache-Control", "no-store")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if send:
            self.wfile.write(body)

    def _let_in(self) -> None:
        self.send_header("Access-Control-Allow-Origin", self.server.origin)
        self.send_header("Vary", "Origin")

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: a view asks for thousands of chunks."""
