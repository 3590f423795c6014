"""Real pairs: downloaded once from a server, checked, kept, and asked for offline."""

import functools
import hashlib
import http.server
import re
import threading
from dataclasses import replace
from pathlib import Path

import itk
import numpy as np
import pytest
from PIL import Image

import xdreg
from xdreg.stores import published_pairs
from xdreg.stores.published_pairs import PAIRS

pytest.importorskip("pooch")

LUNG, KIDNEY = PAIRS["lung_ct"], PAIRS["histology_kidney"]


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def published_files(pair, folder):
    """Write small files of a pair's formats; return its entry with their ids."""
    rng = np.random.default_rng(1)
    files = {}
    for number, (part, (path, _)) in enumerate(pair.files.items()):
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix == ".mha":
            kind = np.uint8 if "mask" in part else np.int16
            image = itk.image_from_array(rng.integers(0, 99, (6, 8, 9)).astype(kind))
            image.SetSpacing((1.5, 1.5, 2.5))
            image.SetOrigin((-5.0, 3.0, -100.0))
            itk.imwrite(image, str(file))
        elif file.suffix == ".jpg":
            values = rng.integers(0, 255, (20, 24, 3)).astype(np.uint8)
            Image.fromarray(values).save(file)
        elif file.suffix == ".txt":
            file.write_text("point\n2\n1 2 3\n4 5 6\n", encoding="utf-8")
        else:
            # The second file has a point less.
            rows = ["1,3,9", "2,4,8", "3,5,7"][: 3 - number % 2]
            file.write_text("\n".join([",X,Y", *rows]) + "\n", encoding="utf-8")
        content = file.read_bytes()
        blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        files[part] = path, blob
    return replace(pair, files=files)


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Serve small files in place of the published ones; return their folder."""
    folder = tmp_path / "published"
    small = {name: published_files(pair, folder) for name, pair in PAIRS.items()}
    handler = functools.partial(_Quiet, directory=str(folder))
    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{httpd.server_port}/{{path}}"
    monkeypatch.setattr(published_pairs, "PAIRS", small)
    monkeypatch.setattr(published_pairs, "ADDRESS", address)
    monkeypatch.setenv("XDREG_DATA", str(tmp_path / "data"))
    yield folder
    httpd.shutdown()
    httpd.server_close()


def test_a_volume_is_downloaded_once_and_kept(server, capsys):
    pair = xdreg.datasets.fetch("lung_ct")
    assert pair.fixed["scale0"].image.dims == ("z", "y", "x")
    grid = xdreg.image_levels(pair.fixed_mask, "image")[0]
    assert float(grid.z[1] - grid.z[0]) == 2.5
    assert grid.z.attrs["units"] == "millimeter"
    np.testing.assert_array_equal(pair.fixed_points, [[3, 2, 1], [6, 5, 4]])
    told = capsys.readouterr().out
    assert "Apache-2.0" in told
    assert LUNG.commit in told
    for file in server.rglob("*"):
        if file.is_file():
            file.unlink()
    again = xdreg.datasets.fetch("lung_ct")
    np.testing.assert_array_equal(
        xdreg.image_levels(again.moving, "image")[0],
        xdreg.image_levels(pair.moving, "image")[0],
    )


def test_sections_in_colour_with_landmarks_of_both(server, tmp_path):
    pair = xdreg.datasets.fetch("histology_kidney", tmp_path / "elsewhere")
    level = xdreg.image_levels(pair.fixed, "image")[0]
    assert level.dims == ("c", "y", "x")
    assert level.sizes["c"] == 3
    assert pair.fixed_mask is None
    np.testing.assert_array_equal(pair.fixed_points, [[9, 3], [8, 4]])
    assert pair.folder == tmp_path / "elsewhere" / "histology_kidney"


def test_another_file_than_the_published_one_is_refused(server):
    file = server / KIDNEY.files["moving"][0]
    good = file.read_bytes()
    file.write_bytes(good[:-1] + b"?")
    with pytest.raises(xdreg.StoreError, match="not the file that was published"):
        xdreg.datasets.fetch("histology_kidney")
    file.write_bytes(good)
    assert xdreg.datasets.fetch("histology_kidney").moving_mask is None


def test_offline_the_message_says_what_to_put_where(server, monkeypatch):
    monkeypatch.setattr(published_pairs, "ADDRESS", "http://127.0.0.1:9/{path}")
    with pytest.raises(xdreg.StoreError) as caught:
        xdreg.datasets.fetch("histology_kidney")
    text = str(caught.value)
    (place,) = re.findall("Put them into (.*) and call again", text)
    for path, _ in KIDNEY.files.values():
        assert f"http://127.0.0.1:9/{path}" in text
        (Path(place) / Path(path).name).write_bytes((server / path).read_bytes())
    assert len(xdreg.datasets.fetch("histology_kidney").fixed_points) == 2


def test_a_file_that_the_publisher_removed_is_named(server):
    (server / LUNG.files["fixed"][0]).unlink()
    with pytest.raises(xdreg.StoreError, match=r"CT_3D_lung_fixed\.mha"):
        xdreg.datasets.fetch("lung_ct")


def test_every_file_has_an_id_of_git():
    for pair in PAIRS.values():
        assert re.fullmatch("[0-9a-f]{40}", pair.commit)
        for _, blob in pair.files.values():
            assert re.fullmatch("[0-9a-f]{40}", blob)
