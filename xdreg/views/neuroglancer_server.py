"""Images as OME-Zarr over HTTP, computed chunk by chunk on request.

No file is served or written. A request names an image, a level and a chunk, which is
read or warped at that moment; anything else is not found. So the format and codecs of
the stored image do not matter.

The server listens to this machine only. Its addresses begin with a secret, which other
users of the machine do not know, and only pages of one viewer may read them. A page
that has a name of its own lead to this machine (DNS rebinding) is refused by that name.
"""

from __future__ import annotations

import json
import logging
import re
import secrets
import socket
import sys
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import numpy as np

from xdreg.errors import StoreError, XdregError, printable
from xdreg.stores.ome_writer import ome_units

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from xdreg.views.lazy_readers import Reader

_log = logging.getLogger(__name__)

#: The only address to listen on.
HOST = "127.0.0.1"

#: Names under which this machine may be asked. A tunnel has another port.
_OWN_NAMES = (HOST, "localhost")

#: Seconds that a connection may be silent.
PATIENCE = 60

#: Bytes of a refused request that are read and dropped, and how many at once.
_LEFT, _PART = 2**20, 2**14

#: Voxels per axis of a chunk.
CHUNK = {2: 256, 3: 64}

#: Types that browsers lack, and those that are sent instead.
_SENT_AS = {"b1": "u1", "f2": "f4", "f8": "f4", "i8": "f4"}


class ServedImage:
    """An image, its levels finest first, as an OME-Zarr 0.5 store."""

    def __init__(self, name: str, readers: Sequence[Reader]) -> None:
        self._readers = tuple(readers)
        ndim = readers[0].grid.ndim
        self._chunk = (CHUNK[ndim],) * ndim
        self._chunk_key = re.compile(r"(\d{1,3})/c" + r"/(\d{1,9})" * ndim)
        documents = {"zarr.json": self._group(name)}
        for number, reader in enumerate(self._readers):
            documents[f"{number}/zarr.json"] = self._array(reader)
        self._documents = {key: json.dumps(v).encode() for key, v in documents.items()}

    def get(self, key: str) -> bytes | None:
        """Return the content of a key of the store; None without such a key."""
        if key in self._documents:
            return self._documents[key]
        match = self._chunk_key.fullmatch(key)
        if match is None or int(match[1]) >= len(self._readers):
            return None
        level, *place = map(int, match.groups())
        reader = self._readers[level]
        window = [
            slice(i * size, min((i + 1) * size, n))
            for i, size, n in zip(place, self._chunk, reader.grid.shape, strict=True)
        ]
        sizes = [part.stop - part.start for part in window]
        if min(sizes) <= 0:
            return None
        values = np.zeros(self._chunk, _sent_type(reader))
        values[tuple(map(slice, sizes))] = reader.read(window)
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

    ``images`` has the levels of each, finest first, by name. ``origin`` is the scheme,
    host and port of the viewer whose pages may read them. ``port`` 0 takes a free one.
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

    def shutdown_request(self, request: Any) -> None:
        """Close a connection when the other side has, or after a while.

        If bytes were left unread the system would reset it, and the answer to a
        request that was refused before its end would be lost.
        """
        with suppress(OSError):
            request.shutdown(socket.SHUT_WR)
            request.settimeout(1)
            for _ in range(_LEFT // _PART):
                if not request.recv(_PART):
                    break
        self.close_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log a request that failed: browsers cut off what is no longer in view."""
        ended = isinstance(sys.exception(), ConnectionError)
        _log.log(logging.DEBUG if ended else logging.ERROR, "no answer", exc_info=True)

    def url(self, name: str) -> str:
        """Return the address of an image."""
        return f"http://{HOST}:{self.server_port}/{self.secret}/{name}"

    def knows(self, path: str) -> bool:
        """Return whether a path begins with the secret."""
        start, secret, *_ = [*path.split("/", 2), ""]
        # Compared in constant time, so that it cannot be guessed letter by letter.
        known = secrets.compare_digest(secret.encode(), self.secret.encode())
        return known and not start

    def find(self, path: str) -> bytes | None:
        """Return the content of a path after its secret; None without such a path."""
        _, _, name, key, *_ = [*path.partition("?")[0].split("/", 3), "", ""]
        return self.images[name].get(key) if name in self.images else None


class _Handler(BaseHTTPRequestHandler):
    """Answers the requests of a browser."""

    protocol_version = "HTTP/1.1"
    server_version, sys_version = "xdreg", ""
    timeout = PATIENCE
    server: ImageServer

    def do_GET(self) -> None:
        """Send a document or a chunk."""
        self._answer(send=True)

    def do_HEAD(self) -> None:
        """Send the headers alone."""
        self._answer(send=False)

    def do_OPTIONS(self) -> None:
        """Answer the preflight request of a browser (CORS)."""
        if not self._is_permitted():
            self._send(404, b"not found")
            return
        self.send_response(204)
        self._send_origin()
        self.send_header("Access-Control-Allow-Methods", "GET, HEAD")
        self.send_header("Access-Control-Allow-Headers", "Range, Cache-Control")
        # Chromium requires this of a public page that reads from this machine.
        self.send_header("Access-Control-Allow-Private-Network", "true")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _is_permitted(self) -> bool:
        """Return whether a request names this machine, and its path the secret."""
        name, _, port = self.headers.get("Host", "").partition(":")
        named = name in _OWN_NAMES and (not port or port.isdecimal())
        # A body, which no view sends, would be taken for the next request.
        size = self.headers.get("Content-Length", "0")
        body = size != "0" or "Transfer-Encoding" in self.headers
        self.close_connection = self.close_connection or body
        return named and not body and self.server.knows(self.path)

    def _answer(self, *, send: bool) -> None:
        status = 200
        try:
            body = self.server.find(self.path) if self._is_permitted() else None
        except (XdregError, OSError) as error:
            place = self.path.rpartition(self.server.secret)[2]
            _log.warning("%s: %s", printable(place), error)
            status, body = 500, str(error).encode(errors="backslashreplace")
        if body is None:
            status, body = 404, b"not found"
        self._send(status, body, send=send)

    def _send(self, status: int, body: bytes, *, send: bool = True) -> None:
        self.send_response(status)
        self._send_origin()
        is_document = status == 200 and self.path.endswith(".json")
        kind = "application/json" if is_document else "application/octet-stream"
        self.send_header("Content-Type", kind)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cache-Control", "no-store")
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if send:
            self.wfile.write(body)

    def _send_origin(self) -> None:
        self.send_header("Access-Control-Allow-Origin", self.server.origin)
        self.send_header("Vary", "Origin")

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: a view asks for thousands of chunks."""
