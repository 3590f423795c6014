"""Files that are read whole and written atomically, whatever lies in their place."""

import os
import re

import pytest

import xdreg
from xdreg.stores.files import read_end, read_file, replace_file


def test_a_file_is_read_whole_or_cut_off(tmp_path):
    path = tmp_path / "a"
    replace_file(path, b"0123456789")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    assert read_file(path, 10) == read_file(path, 11) == b"0123456789"
    assert read_file(path, 4) == b"01234"
    assert read_end(path, 3) == b"789"
    assert read_end(path, 11) is None
    replace_file(path, b"")
    assert read_file(path, 4) == b""


def test_nothing_is_told_from_something_else(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_file(tmp_path / "a", 4)
    assert read_end(tmp_path / "a", 4) is None


@pytest.mark.parametrize("how", ["folder", "pipe", "device", "loop", "below a file"])
def test_something_else_is_refused_by_name_at_once(how, tmp_path):
    path = tmp_path / "a"
    if how == "folder":
        path.mkdir()
    elif how == "pipe":
        os.mkfifo(path)
    elif how == "below a file":
        path.touch()
        path = path / "b"
    else:
        path.symlink_to("/dev/zero" if how == "device" else path)
    with pytest.raises(xdreg.StoreError, match=re.escape(str(path))):
        read_file(path, 4)
