"""Served images as a browser gets them."""

import http.client
import socket
import struct
import urllib.error
import urllib.request
from urllib.parse import urlsplit

import numpy as np
import pytest
import zarr

import xdreg
from tests.helpers.viewers import serving
from xdreg.coordinates import grid_of
from xdreg.stores.readers import image_reader
from xdreg.views.neuroglancer_server import ImageServer


def fetch(url, **headers):
    request = urllib.request.Request(url, headers=headers)
    with urllib.request.urlopen(request) as answer:
        return answer.read(), answer.headers


def test_stores_hold_what_the_readers_read(scene, served):
    server, _ = served
    for name, readers in (("fixed", scene.fixed), ("warped", scene.warped)):
        image = xdreg.open_ome_zarr(server.url(name), level=0)
        np.testing.assert_array_equal(image.values, readers[0].read())
        assert grid_of(image) == readers[0].grid
        assert image.dtype == readers[0].dtype


def test_documents_are_valid_ome_zarr(served, tmp_path):
    import ngff_zarr

    server, _ = served
    for name in ("fixed", "warped", "moving"):
        for key in ("zarr.json", "0/zarr.json"):
            document = tmp_path / name / key
            document.parent.mkdir(parents=True, exist_ok=True)
            document.write_bytes(fetch(f"{server.url(name)}/{key}")[0])
        ngff_zarr.from_ngff_zarr(str(tmp_path / name), validate=True)
        array = zarr.open_array(f"{server.url(name)}/0", mode="r")
        assert array.metadata.dimension_names == ("z", "y", "x")


def test_only_the_viewer_may_read(served):
    server, _ = served
    _, headers = fetch(
        server.url("fixed") + "/zarr.json", Origin="https://evil.example"
    )
    assert headers["Access-Control-Allow-Origin"] == "https://viewer.example"
    assert headers["Vary"] == "Origin"
    assert headers["Content-Type"] == "application/json"
    parts = urlsplit(server.url("fixed"))
    connection = http.client.HTTPConnection(parts.netloc)
    connection.request("OPTIONS", parts.path + "/0/c/0/0/0")
    answer = connection.getresponse()
    answer.read()
    assert answer.status == 204
    assert answer.headers["Access-Control-Allow-Private-Network"] == "true"
    # On the same connection: browsers keep it open.
    connection.request("HEAD", parts.path + "/0/c/0/0/0")
    answer = connection.getresponse()
    assert (answer.status, answer.read()) == (200, b"")
    assert int(answer.headers["Content-Length"]) == 64**3 * 2
    connection.close()
    assert server.server_address[0] == "127.0.0.1"


@pytest.mark.parametrize(
    "path",
    [
        "/../../../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/0/c/1/0/0",
        "/0/c/0/0",
        "/0/c/0/0/0/0",
        "/0/c/-1/0/0",
        "/0/c/99999999999999999999/0/0",
        "/7/c/0/0/0",
        "/0/zarr.json/..",
        "/",
        "",
    ],
)
def test_nothing_else_is_there(served, path):
    server, _ = served
    with pytest.raises(urllib.error.HTTPError, match="404"):
        fetch(server.url("fixed") + path)


def test_the_secret_is_needed(served):
    server, _ = served
    address = server.url("fixed") + "/zarr.json"
    for wrong in ("x" * 22, "", "é"):
        with pytest.raises(urllib.error.HTTPError, match="404"):
            fetch(address.replace(server.secret, urllib.request.quote(wrong)))
    assert fetch(address)[0]


def test_types_that_browsers_lack():
    image = xdreg.datasets.phantom_pair((30, 40)).fixed.astype("float64")
    images = {"a": [image_reader(image)]}
    with serving(ImageServer(images, origin="http://x")) as server:
        found = xdreg.open_ome_zarr(server.url("a"), level=0).compute()
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, image.astype("float32"))


def test_a_port_that_is_taken_is_an_error():
    image = [image_reader(xdreg.datasets.phantom_pair((30, 40)).fixed)]
    with (
        ImageServer({"a": image}, origin="http://x") as server,
        pytest.raises(xdreg.StoreError, match="take another"),
    ):
        ImageServer({"a": image}, origin="http://x", port=server.server_port)


def test_a_chunk_that_cannot_be_read_is_an_error(caplog):
    class Broken:
        grid = grid_of(xdreg.datasets.phantom_pair((30, 40)).fixed)
        dtype = np.dtype("u1")

        def read(self, window=None):
            msg = "the disk is away"
            raise xdreg.StoreError(msg)

    with (
        serving(ImageServer({"a": [Broken()]}, origin="http://x")) as server,
        pytest.raises(urllib.error.HTTPError, match="500") as failure,
    ):
        fetch(server.url("a") + "/0/c/0/0")
    assert failure.value.read() == b"the disk is away"
    assert server.secret not in caplog.text


def answer_to(server, request):
    """Return the status of a request, sent as it is."""
    with socket.create_connection(server.server_address) as connection:
        connection.sendall(request.encode("latin-1"))
        connection.shutdown(socket.SHUT_WR)
        received = b"".join(iter(lambda: connection.recv(2**16), b""))
    return int(received.split()[1]) if received else None


def test_a_name_that_leads_here_is_refused(served):
    server, _ = served
    path = f"/{server.secret}/fixed/zarr.json"
    port = server.server_port
    for host in (f"127.0.0.1:{port}", "localhost:8888", "127.0.0.1"):
        request = f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"
        assert answer_to(server, request) == 200
    for host in (
        f"evil.example:{port}", f"127.0.0.1.evil.example:{port}", "127.0.0.1@evil",
        f"localhost.evil:{port}", "", "127.0.0.1:evil",
    ):  # fmt: skip
        for method in ("GET", "HEAD", "OPTIONS"):
            request = f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"
            assert answer_to(server, request) == 404
    assert answer_to(server, f"GET {path} HTTP/1.0\r\n\r\n") == 404


def test_only_reading_is_answered_and_only_for_the_secret(served):
    server, _ = served
    path = f"/{server.secret}/fixed/zarr.json"
    host = f"Host: 127.0.0.1:{server.server_port}\r\n"
    for method in ("POST", "PUT", "DELETE", "PATCH", "TRACE", "CONNECT"):
        assert answer_to(server, f"{method} {path} HTTP/1.1\r\n{host}\r\n") == 501
    wrong = "/" + "x" * len(server.secret) + "/fixed/zarr.json"
    for method in ("GET", "HEAD", "OPTIONS"):
        assert answer_to(server, f"{method} {wrong} HTTP/1.1\r\n{host}\r\n") == 404
    absolute = f"http://127.0.0.1:{server.server_port}{path}"
    assert answer_to(server, f"GET {absolute} HTTP/1.1\r\n{host}\r\n") == 404


def test_requests_are_bounded(served):
    server, _ = served
    path = f"/{server.secret}/fixed/zarr.json"
    host = f"Host: 127.0.0.1:{server.server_port}\r\n"
    # A body is not read as the next request.
    second = f"GET {path} HTTP/1.1\r\n{host}\r\n"
    for size in (f"Content-Length: {len(second)}", "Transfer-Encoding: chunked"):
        request = f"GET {path} HTTP/1.1\r\n{host}{size}\r\n\r\n{second}"
        assert answer_to(server, request) == 404
    assert answer_to(server, f"GET /{'a' * 2**17} HTTP/1.1\r\n{host}\r\n") == 414
    many = "".join(f"A{i}: b\r\n" for i in range(200))
    assert answer_to(server, f"GET {path} HTTP/1.1\r\n{host}{many}\r\n") == 431


def test_a_browser_that_hangs_up_leaves_no_trace(served, capfd):
    server, _ = served
    for _ in range(3):
        with socket.create_connection(server.server_address) as connection:
            linger = struct.pack("ii", 1, 0)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            chunk = f"/{server.secret}/fixed/0/c/0/0/0"
            connection.sendall(f"GET {chunk} HTTP/1.1\r\nHost: localhost\r\n".encode())
    fetch(server.url("fixed") + "/zarr.json")
    assert "Traceback" not in capfd.readouterr().err
