"""Image files that hold fewer voxels than they say."""

import contextlib
import gzip
import locale
import zlib

import itk
import numpy as np
import pytest

import xdreg

SHAPE = (5, 3, 4)
WHOLE = np.arange(1, 61, dtype=np.uint8).reshape(SHAPE)


def header(data, more=""):
    return (
        "ObjectType = Image\nNDims = 3\nDimSize = 4 3 5\nElementType = MET_UCHAR\n"
        f"{more}ElementDataFile = {data}\n"
    ).encode()


def slices(count):
    return "LIST\n" + "\n".join(f"s{i}.raw" for i in range(count))


@pytest.fixture
def folder(tmp_path):
    for number, plane in enumerate(WHOLE):
        (tmp_path / f"s{number}.raw").write_bytes(plane.tobytes())
    for number, row in enumerate(WHOLE.reshape(15, 4)):
        (tmp_path / f"row{number}.raw").write_bytes(row.tobytes())
    return tmp_path


@pytest.mark.parametrize(
    "data",
    [
        *(slices(5), slices(5) + "\ns0.raw", "s%d.raw 0 4 1"),
        "LIST 1\n" + "\n".join(f"row{i}.raw" for i in range(15)),
    ],
)
def test_slices_of_a_volume(folder, data):
    (folder / "a.mhd").write_bytes(header(data))
    np.testing.assert_array_equal(xdreg.open_image(folder / "a.mhd"), WHOLE)


@pytest.mark.parametrize(
    "data",
    [
        *(slices(4), "LIST", "LIST 3\ns0.raw", "s%d.raw 0 3 1", "s%d.raw 0 4 2"),
        "LIST 1\n" + "\n".join(f"row{i}.raw" for i in range(14)),
    ],
)
def test_too_few_slices_are_refused(folder, data):
    (folder / "a.mhd").write_bytes(header(data))
    with pytest.raises(xdreg.StoreError, match=r"a\.mhd names \d+ files .* expected"):
        xdreg.open_image(folder / "a.mhd")


@pytest.mark.parametrize("count", [60, 59, 20])
@pytest.mark.parametrize("within", [True, False])
@pytest.mark.parametrize("sized", [True, False])
def test_compressed_voxels_are_counted(tmp_path, count, within, sized):
    packed = zlib.compress(WHOLE.tobytes()[:count])
    more = "CompressedData = True\n"
    more += f"CompressedDataSize = {len(packed)}\n" if sized or count == 60 else ""
    if within:
        file = tmp_path / "a.mha"
        file.write_bytes(header("LOCAL", more) + packed)
    else:
        file = tmp_path / "a.mhd"
        file.write_bytes(header("a.zraw", more))
        (tmp_path / "a.zraw").write_bytes(packed)
    if count == 60:
        np.testing.assert_array_equal(xdreg.open_image(file), WHOLE)
        return
    with pytest.raises(xdreg.StoreError, match=f"voxels are 60 bytes, .* {count}"):
        xdreg.open_image(file)


def assert_same_values(file, values):
    """Compare in any order: orientations differ between formats."""
    found = xdreg.open_image(file).values
    np.testing.assert_array_equal(np.sort(found, None), np.sort(values, None))


@pytest.mark.parametrize("data", ["s%d.raw 0 4", "s%d.raw 0 4 0", "s%d.raw 0 4 x"])
def test_a_pattern_without_a_step_is_refused(folder, data):
    (folder / "a.mhd").write_bytes(header(data))
    with pytest.raises(xdreg.StoreError, match="a step"):
        xdreg.open_image(folder / "a.mhd")


@pytest.mark.parametrize(
    "kind", ["nii", "nii.gz", "hdr", "gipl", "gipl.gz", "mrc", "vtk"]
)
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
def test_files_that_are_cut_off(tmp_path, kind, dtype):
    file = tmp_path / f"a.{kind}"
    values = np.arange(24000, dtype=dtype).reshape(20, 30, 40)
    itk.imwrite(itk.image_from_array(values), str(file))
    assert_same_values(file, values)
    voxels = file.with_suffix(".img") if kind == "hdr" else file
    whole = voxels.read_bytes()
    for length in (len(whole) * 9 // 10, len(whole) - 16):
        voxels.write_bytes(whole[:length])
        with pytest.raises(xdreg.StoreError, match=r"cut off|cannot read"):
            xdreg.open_image(file)


def test_the_locale_is_kept(tmp_path):
    before = locale.setlocale(locale.LC_ALL)
    try:
        locale.setlocale(locale.LC_CTYPE, "C.UTF-8")
    except locale.Error:
        pytest.skip("no locale but C")
    own = locale.setlocale(locale.LC_ALL)
    file = tmp_path / "a.vtk"
    itk.imwrite(itk.image_from_array(WHOLE), str(file))
    locale.setlocale(locale.LC_ALL, own)
    try:
        for length in (len(file.read_bytes()), 1000, 100):
            file.write_bytes(file.read_bytes()[:length])
            with contextlib.suppress(xdreg.StoreError):
                xdreg.open_image(file)
            assert locale.setlocale(locale.LC_ALL) == own, length
    finally:
        locale.setlocale(locale.LC_ALL, before)


def test_scaled_voxels_are_smaller_on_disk(tmp_path):
    file = tmp_path / "a.nii"
    itk.imwrite(itk.image_from_array(WHOLE), str(file))
    content = bytearray(file.read_bytes())
    content[112:116] = np.float32(0.5).tobytes()  # the slope of the values
    file.write_bytes(content)
    np.testing.assert_allclose(
        np.sort(xdreg.open_image(file), None), np.sort(WHOLE * 0.5, None)
    )


def test_several_streams_of_gzip_are_one_file(tmp_path):
    plain, packed = tmp_path / "a.nii", tmp_path / "a.nii.gz"
    itk.imwrite(itk.image_from_array(WHOLE), str(plain))
    content = plain.read_bytes()
    packed.write_bytes(gzip.compress(content[:370]) + gzip.compress(content[370:]))
    assert_same_values(packed, WHOLE)
