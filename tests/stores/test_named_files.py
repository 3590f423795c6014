"""What a document names: local files, pipes, and addresses of other computers."""

import os
from pathlib import Path

import pytest

import xdreg
from xdreg.stores.named_files import companion, is_elsewhere, is_local, why_not_a_file

REMOTE = "https://host/bucket/run/field.ome.zarr"


@pytest.mark.parametrize(
    ("address", "document"),
    [
        ("http://127.0.0.1:9/a.zarr", "/data/field.zarr"),
        ("HTTPS://host/a.zarr", "/data/field.zarr"),
        ("file:///etc/passwd", "/data/field.zarr"),
        ("reference::http://host/a.json", "/data/field.zarr"),
        ("/data/zip::x/a.zarr", "/data/field.zarr"),
        ("smb:host/share", "/data/field.zarr"),
        ("s3:/bucket/a", "/data/field.zarr"),
        ("//server/share/a.zarr", "/data/field.zarr"),
        ("\\\\server\\share\\a.zarr", "/data/field.zarr"),
        ("\\\\?\\UNC\\server\\a.zarr", "/data/field.zarr"),
        ("/net/server/a.zarr", "/data/field.zarr"),
        ("//server/share/a.zarr", "//server/other/field.zarr"),
        ("https://host/bucket/other/a.zarr", REMOTE),
        ("https://host/bucket/running/a.zarr", REMOTE),
        ("http://host/bucket/run/a.zarr", REMOTE),
        ("https://host:8443/bucket/run/a.zarr", REMOTE),
        ("https://host@evil/bucket/run/a.zarr", REMOTE),
        ("https://host/bucket/run/../../a.zarr", REMOTE),
        ("https://host/bucket/run/%2e%2e/a.zarr", REMOTE),
        ("https://host/bucket/run/%252e%252e/a.zarr", REMOTE),
        ("https://host/bucket/run/a?delete=1", REMOTE),
        ("https://host/bucket/run\n/a", REMOTE),
        ("simplecache::https://host/bucket/run/a.zarr", REMOTE),
        ("s3://other/field/a.zarr", "s3://bucket/field.zarr"),
    ],
)
def test_other_computers_are_elsewhere(address, document):
    assert is_elsewhere(address, document)
    assert not is_local(address)


@pytest.mark.parametrize(
    ("address", "document"),
    [
        ("/data/a.zarr", "/data/field.zarr"),
        ("a.zarr", "/data/field.zarr"),
        ("/data/a#b [1] {x} 100%.zarr", REMOTE),
        ("C:\\data\\a.zarr", "/data/field.zarr"),
        ("https://host/bucket/run/a.zarr", REMOTE),
        ("https://host/bucket/run/field.ome.zarr/image", REMOTE),
        ("s3://bucket/a.zarr", "s3://bucket/field.zarr/"),
        ("//server/share/a.zarr", "\\\\server\\share\\field.zarr"),
        ("/afs/cell/b/a.zarr", "/afs/cell/a/field.zarr"),
    ],
)
def test_local_files_and_those_next_to_the_document_are_not(address, document):
    assert is_elsewhere(address, document) is None


def test_devices_and_pipes_are_no_files(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    for path in ("pipe", "link"):
        assert "a pipe" in why_not_a_file(str(tmp_path / path))
    assert "a device" in why_not_a_file("/dev/zero")
    if Path("/proc/self/environ").exists():
        assert "the system" in why_not_a_file("/proc/self/environ")
    (tmp_path / "file").touch()
    for path in ("file", "missing", "."):
        assert why_not_a_file(str(tmp_path / path)) is None


def test_a_companion_is_local_and_outside_the_folder_it_is_named(tmp_path):
    folder = tmp_path / "a"
    folder.mkdir()
    document = folder / "document.txt"
    for place in (document, folder / "near.txt", tmp_path / "far.txt"):
        place.touch()
    # The one next to the document serves, wherever its name leads.
    for name in ("near.txt", "/gone/near.txt", "\\\\server\\share\\near.txt"):
        assert companion(name, document) == folder / "near.txt"
    for name in ("../far.txt", str(tmp_path / "far.txt")):
        with pytest.warns(UserWarning, match=r"far.txt, outside its folder"):
            assert companion(name, document) == tmp_path / "far.txt"
    os.mkfifo(folder / "pipe")
    for name in ("pipe", "/dev/zero", "http://127.0.0.1:9/x.txt", "//server/s/x.txt"):
        with pytest.raises(xdreg.StoreError, match="not opened"):
            companion(name, document)
    with pytest.raises(xdreg.StoreError, match="missing"):
        companion("x.txt", document)
