"""BigWarp's N5: in blocks, as its specification has it, quantised."""

import gzip
import json
import time

import numpy as np
import pytest

import xdreg
from tests.helpers.fields import Known, difference, moving_like
from tests.helpers.matrices import TURN
from tests.helpers.pairs import zero_field
from xdreg.fields.composition import compose
from xdreg.fields.displacement import make_field
from xdreg.fields.field import field_grid
from xdreg.grid import Grid


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("affine", [False, True])
def test_bigwarp_s_n5_goes_out_and_comes_back_in_blocks(tmp_path, ndim, affine):
    pytest.importorskip("tensorstore")
    known = Known(ndim, 8.0)
    inverse = known.field.dreg.inverse(moving_like(known), step=4).load()
    path = tmp_path / "field.n5"
    known.field.dreg.to_file(path, inverse=inverse, affine=affine)
    again = xdreg.open_transform(path)
    assert difference(again, known.field) < (1e-4 if affine else 1e-9)
    assert again.displacement.chunks is not None
    back = xdreg.open_transform(path, inverse=True)
    assert difference(back, inverse) == 0
    attributes = json.loads((path / "dfield" / "attributes.json").read_text("utf-8"))
    own = field_grid(known.field)
    assert attributes["spacing"] == list(own.spacing[::-1])
    assert attributes["offset"] == list(own.origin[::-1])
    assert attributes["dimensions"] == [ndim, *own.shape[::-1]]
    assert attributes["blockSize"][0] == ndim
    assert ("affine" in attributes) == affine
    with pytest.raises(xdreg.StoreError, match="overwrite"):
        known.field.dreg.to_file(path)
    known.field.dreg.to_file(path, overwrite=True)
    with pytest.raises(xdreg.StoreError, match="invdfield"):
        xdreg.open_transform(path, inverse=True)


def test_a_block_of_n5_as_its_specification_has_it(tmp_path):
    """Vectors fastest, x first, big-endian, after a header; by hand."""
    pytest.importorskip("tensorstore")
    values = np.arange(2 * 3 * 4, dtype=np.float32).reshape(2, 3, 4)
    grid = Grid(("y", "x"), (3, 4), (2.0, 0.5), (1.0, 7.0), "micrometer")
    make_field(values, grid).dreg.to_file(tmp_path / "a.n5")
    block = (tmp_path / "a.n5/dfield/0/0/0").read_bytes()
    header = np.frombuffer(block, ">u2", 2)
    assert header.tolist() == [0, 3]
    assert np.frombuffer(block, ">u4", 3, 4).tolist() == [2, 4, 3]
    numbers = np.frombuffer(gzip.decompress(block[16:]), ">f4").reshape(3, 4, 2)
    np.testing.assert_array_equal(numbers[..., 0], values[1])
    np.testing.assert_array_equal(numbers[..., 1], values[0])


def test_a_quantised_field_of_bigwarp_with_its_affine(tmp_path):
    ts = pytest.importorskip("tensorstore")
    values = np.random.default_rng(0).integers(-90, 90, (2, 4, 3)).astype(np.int16)
    for name, rows in (("dfield", TURN), ("invdfield", np.linalg.inv(TURN))):
        folder = tmp_path / "q.n5" / name
        store = ts.open(
            {
                "driver": "n5",
                "kvstore": {"driver": "file", "path": f"{folder}/"},
                "metadata": {
                    "dimensions": [2, 4, 3], "blockSize": [2, 2, 2],
                    "dataType": "int16", "compression": {"type": "raw"},
                },
            },
            create=True,
        ).result()  # fmt: skip
        store[...].write(values).result()
        document = folder / "attributes.json"
        xyz = rows[[1, 0]][:, [1, 0, 2]]
        more = {
            "spacing": [0.5, 2.0], "offset": [7.0, 1.0],
            "quantization_multiplier": 0.01, "affine": xyz.ravel().tolist(),
        }  # fmt: skip
        document.write_text(json.dumps(json.loads(document.read_text("utf-8")) | more))
    grid = Grid(("y", "x"), (3, 4), (2.0, 0.5), (1.0, 7.0), "micrometer")
    bent = make_field((values.transpose(0, 2, 1)[::-1] * 0.01).astype("f4"), grid)
    field = xdreg.open_transform(tmp_path / "q.n5", units="micrometer")
    assert difference(field, compose(bent, TURN)) < 1e-4
    with pytest.raises(xdreg.InputError, match=r": like=\.\.\."):
        xdreg.open_transform(tmp_path / "q.n5", units="micrometer", inverse=True)
    back = xdreg.open_transform(
        tmp_path / "q.n5", units="micrometer", inverse=True, like=grid
    )
    assert difference(back, compose(np.linalg.inv(TURN), bent, like=grid)) < 1e-4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dimensions": [2, 10**9, 10**9]}, "chunks; expected at most"),
        ({"dimensions": [2, 10**18, 10**18]}, "chunks; expected at most"),
        ({"dimensions": [2, 10**7, 30], "blockSize": [2, 1, 1]}, "chunks; expected"),
        ({"dimensions": [2, -5, 30]}, "cannot be opened as N5"),
        ({"quantization_multiplier": "x"}, "quantization_multiplier is"),
    ],
)
def test_absurd_numbers_are_refused(change, message, tmp_path):
    pytest.importorskip("tensorstore")
    xdreg.write_transform(zero_field((20, 30)), tmp_path / "a.n5")
    document = tmp_path / "a.n5" / "dfield" / "attributes.json"
    document.write_text(json.dumps(json.loads(document.read_text("utf-8")) | change))
    began = time.monotonic()
    with pytest.raises(xdreg.StoreError, match=message):
        xdreg.open_transform(tmp_path / "a.n5")
    assert time.monotonic() - began < 5
