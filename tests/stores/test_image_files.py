"""Image files by the libraries of their formats: units, DICOM, refusals."""

from dataclasses import replace

import itk
import numpy as np
import pytest

import xdreg
from xdreg.coordinates import grid_of

VALUES = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)


def test_the_units_of_nrrd(tmp_path):
    nrrd = pytest.importorskip("nrrd")
    header = {
        "space": "left-posterior-superior",
        "space directions": np.diag([500.0, 500.0, 2000.0]),
        "space units": ["um", "um", "um"],
    }
    nrrd.write(str(tmp_path / "a.nrrd"), VALUES.T.copy(), header)
    grid = grid_of(xdreg.open_image(tmp_path / "a.nrrd"))
    assert (grid.units, grid.spacing) == ("micrometer", (2000.0, 500.0, 500.0))
    header["space units"] = ["um", "um", "mm"]
    nrrd.write(str(tmp_path / "b.nrrd"), VALUES.T.copy(), header)
    with pytest.raises(xdreg.InputError, match=r"different units.*units="):
        xdreg.open_image(tmp_path / "b.nrrd")
    # A unit of each axis, in a file that places it in no space.
    plain = {"spacings": [500.0, 500.0, 2000.0], "units": ["um", "um", "um"]}
    nrrd.write(str(tmp_path / "c.nrrd"), VALUES.T.copy(), plain)
    assert grid_of(xdreg.open_image(tmp_path / "c.nrrd")) == replace(
        grid, origin=(0.0, 0.0, 0.0)
    )


@pytest.mark.parametrize("place", ["space units", "units"])
def test_units_of_nrrd_that_are_no_length(tmp_path, place):
    nrrd = pytest.importorskip("nrrd")
    header = (
        {"space dimension": 3, "space directions": np.eye(3)}
        if place == "space units"
        else {"spacings": [1.0, 1.0, 1.0]}
    )
    path = tmp_path / "a.nrrd"
    nrrd.write(str(path), VALUES.T.copy(), header | {place: ["foo", "foo", "foo"]})
    with pytest.raises(xdreg.InputError, match=r"\['foo'\], none of them.*units="):
        xdreg.open_image(path)
    assert grid_of(xdreg.open_image(path, units="um")).units == "micrometer"
    nrrd.write(str(path), VALUES.T.copy(), header | {place: ["", "", ""]})
    assert grid_of(xdreg.open_image(path)).units == "millimeter"


@pytest.mark.parametrize("line", [b"DistanceUnits = um", b"Comment = units: um"])
def test_the_units_of_metaimage(tmp_path, line):
    path = tmp_path / "a.mha"
    itk.imwrite(itk.image_from_array(VALUES), str(path))
    assert grid_of(xdreg.open_image(path)).units == "millimeter"
    data = path.read_bytes()
    path.write_bytes(data.replace(b"NDims = 3\n", b"NDims = 3\n" + line + b"\n"))
    assert grid_of(xdreg.open_image(path)).units == "micrometer"
    assert grid_of(xdreg.open_image(path, units="nm")).units == "nanometer"


@pytest.mark.parametrize("unit", ["mm", "micron", "meter"])
def test_the_units_and_places_of_nifti(tmp_path, unit):
    nibabel = pytest.importorskip("nibabel")
    affine = np.array(
        [[-0.5, 0, 0, 90.0], [0, 0, 2.0, 20.0], [0, 1.0, 0, -7.0], [0, 0, 0, 1.0]]
    )
    image = nibabel.Nifti1Image(VALUES.T.copy(), affine)
    image.header.set_xyzt_units(unit)
    nibabel.save(image, tmp_path / "a.nii.gz")
    opened = xdreg.open_image(tmp_path / "a.nii.gz", units="millimeter")
    factor = {"mm": 1.0, "micron": 1e-3, "meter": 1e3}[unit]
    for index in [(0, 0, 0), (5, 1, 3), (2, 4, 1)]:
        x, y, z = affine[:3] @ (*index, 1.0) * factor
        point = {"x": -x, "y": -y, "z": z}
        found = opened.sel(point, method="nearest")
        assert int(found) == int(VALUES.T[index])
        for dim, value in point.items():
            assert abs(float(found[dim]) - value) < 1e-5 * max(abs(value), 1)


def write_slice(path, number, z, series, thickness=None):
    pydicom = pytest.importorskip("pydicom")
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    meta = pydicom.dataset.FileMetaDataset()
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.4"
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = pydicom.Dataset()
    data.file_meta = meta
    data.SOPClassUID = meta.MediaStorageSOPClassUID
    data.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    data.Modality, data.PatientID, data.PatientName = "MR", "1", "A"
    data.SeriesInstanceUID = data.StudyInstanceUID = series
    data.Rows, data.Columns = VALUES.shape[1:]
    data.PixelSpacing, data.ImagePositionPatient = [0.5, 0.25], [1, 2, z]
    data.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    data.InstanceNumber, data.SamplesPerPixel = number + 1, 1
    if thickness is not None:
        data.SliceThickness = thickness
    data.PhotometricInterpretation, data.PixelRepresentation = "MONOCHROME2", 1
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 16, 15
    data.PixelData = VALUES[number].tobytes()
    data.save_as(path, enforce_file_format=True)


def test_a_folder_of_dicom(tmp_path):
    for number in range(4):
        path = tmp_path / f"{3 - number}.dcm"
        write_slice(path, number, 10 + 3 * number, "1.2.3", 3.0)
    image = xdreg.open_image(tmp_path)
    np.testing.assert_array_equal(image, VALUES)
    grid = grid_of(image)
    assert (grid.spacing, grid.origin) == ((3.0, 0.5, 0.25), (10.0, 2.0, 1.0))
    write_slice(tmp_path / "other.dcm", 0, 0, "1.2.4", 3.0)
    with pytest.raises(xdreg.InputError, match=r"series='1\.2"):
        xdreg.open_image(tmp_path)
    assert xdreg.open_image(tmp_path, series="1.2.3").shape == (4, 5, 6)
    (tmp_path / "other.dcm").unlink()
    (tmp_path / "1.dcm").unlink()
    with pytest.raises(xdreg.StoreError, match="not evenly spaced"):
        xdreg.open_image(tmp_path)


def test_one_slice_of_dicom(tmp_path):
    write_slice(tmp_path / "a.dcm", 0, 10, "1.2.3", 3.0)
    with pytest.warns(UserWarning, match="one slice"):
        image = xdreg.open_image(tmp_path / "a.dcm")
    assert grid_of(image).spacing == (3.0, 0.5, 0.25)
    write_slice(tmp_path / "b.dcm", 0, 10, "1.2.3")
    with pytest.raises(xdreg.InputError, match=r"thickness.*spacing"):
        xdreg.open_image(tmp_path / "b.dcm")
    image = xdreg.open_image(tmp_path / "b.dcm", spacing=(2, 0.5, 0.25))
    assert grid_of(image).spacing == (2.0, 0.5, 0.25)


def test_other_kinds_say_what_opens_them(tmp_path):
    (tmp_path / "a.n5").mkdir()
    with pytest.raises(xdreg.StoreError, match="N5; convert it"):
        xdreg.open_image(tmp_path / "a.n5")
    pair = xdreg.datasets.write_phantom_pair(tmp_path / "pair", (40, 48))
    with pytest.raises(xdreg.StoreError, match="open_ome_zarr"):
        xdreg.open_image(pair[0])
    (tmp_path / "a.czi").write_bytes(b"ZISRAWFILE")
    with pytest.raises(xdreg.StoreError, match="bioio"):
        xdreg.open_image(tmp_path / "a.czi")


@pytest.mark.parametrize("damage", ["turn", "spacing", "rows", "position", "cut"])
def test_slices_that_do_not_go_together_are_refused(damage, tmp_path):
    pydicom = pytest.importorskip("pydicom")
    for number in range(4):
        path = tmp_path / f"{number}.dcm"
        write_slice(path, number, 3 * number, "1.2.3", 3.0)
    # The last: what is left of the others would be evenly spaced.
    data = pydicom.dcmread(path)
    if damage == "turn":
        data.ImageOrientationPatient = [0, 1, 0, 1, 0, 0]
    elif damage == "spacing":
        data.PixelSpacing = [0.5, 0.4]
    elif damage == "rows":
        data.Rows, data.PixelData = 4, data.PixelData[: 2 * 4 * data.Columns]
    elif damage == "position":
        del data.ImagePositionPatient
    data.save_as(path, enforce_file_format=True)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(xdreg.StoreError, match=r"3\.dcm"):
        xdreg.open_image(tmp_path)


def test_other_files_next_to_a_series(tmp_path):
    for number in range(4):
        path = tmp_path / f"{number}.dcm"
        write_slice(path, number, 3 * number, "1.2.3", 3.0)
    (tmp_path / "README.txt").write_text("a series", encoding="utf-8")
    header = path.read_bytes()
    (tmp_path / "report.dcm").write_bytes(header[: header.find(b"\xe0\x7f\x10\x00")])
    with pytest.warns(UserWarning, match="report.dcm is DICOM without"):
        np.testing.assert_array_equal(xdreg.open_image(tmp_path), VALUES)


def test_bioio_without_a_reader_names_what_to_install(tmp_path):
    pytest.importorskip("bioio")
    (tmp_path / "a.czi").write_bytes(b"ZISRAWFILE")
    with pytest.raises(xdreg.StoreError, match="pip install bioio-czi"):
        xdreg.open_image(tmp_path / "a.czi")
