"""Images as other libraries write them, each by its own functions.

Run as a script by an interpreter that has the library, ``writers.py NAME FOLDER``: some
libraries do not go together with each other. Prints the place of the image, relative to
the folder.
"""

import sys
from pathlib import Path

import numpy as np

SHAPE, SPACING, ORIGIN = (8, 16, 24), (2.0, 0.5, 0.25), (10.0, 3.0, 4.0)

VALUES = np.random.default_rng(0).integers(1, 1000, SHAPE).astype(np.uint16)


def _iohub(folder, version, layout):
    from iohub.ngff import open_ome_zarr
    from iohub.ngff.models import TransformationMeta

    with open_ome_zarr(
        folder / "a.zarr",
        layout=layout,
        mode="w-",
        channel_names=["a"],
        version=version,
    ) as store:
        image = store if layout == "fov" else store.create_position("A", "1", "0")
        image.create_image(
            "0",
            VALUES[None, None],
            transform=[
                TransformationMeta(type="scale", scale=[1, 1, *SPACING]),
                TransformationMeta(type="translation", translation=[0, 0, *ORIGIN]),
            ],
        )
    return "a.zarr" if layout == "fov" else "a.zarr/A/1/0"


def iohub_fov_04(folder):
    return _iohub(folder, "0.4", "fov")


def iohub_hcs_04(folder):
    return _iohub(folder, "0.4", "hcs")


def iohub_fov_05(folder):
    return _iohub(folder, "0.5", "fov")


def iohub_hcs_05(folder):
    return _iohub(folder, "0.5", "hcs")


def element_of_spatialdata(scale_factors=None):
    """Return an element in memory, in two coordinate systems."""
    from spatialdata.models import Image3DModel
    from spatialdata.transformations import Identity, Scale, Sequence, Translation

    # Its pixels are counted from their corners.
    corner = [o - s / 2 for o, s in zip(ORIGIN, SPACING, strict=True)]
    axes = ("z", "y", "x")
    place = Sequence([Scale(list(SPACING), axes), Translation(corner, axes)])
    return Image3DModel.parse(
        VALUES[None],
        dims=("c", *axes),
        scale_factors=scale_factors,
        transformations={"microns": place, "global": Identity()},
    )


def _spatialdata(folder, **options):
    import spatialdata

    element = element_of_spatialdata(**options)
    spatialdata.SpatialData(images={"cells": element}).write(folder / "a.zarr")
    return "a.zarr/images/cells"


def spatialdata_image(folder):
    return _spatialdata(folder)


def spatialdata_multiscale(folder):
    return _spatialdata(folder, scale_factors=[2])


def webknossos_ome_zarr(folder):
    import webknossos

    nanometres = [1000 * s for s in SPACING[::-1]]
    dataset = webknossos.Dataset(folder / "a", voxel_size=nanometres)
    corner = [round(o / s) for o, s in zip(ORIGIN, SPACING, strict=True)]
    layer = dataset.add_layer("color", "color", dtype="uint16", data_format="zarr3")
    layer.add_mag(1).write(
        VALUES.T[None], absolute_offset=corner[::-1], allow_resize=True
    )
    return "a/color"


def _ome_zarr_py(folder, version):
    import ome_zarr.format
    from ome_zarr.writer import write_image

    kinds = {"0.4": ome_zarr.format.FormatV04, "0.5": ome_zarr.format.FormatV05}
    first = [
        {"type": "scale", "scale": list(SPACING)},
        {"type": "translation", "translation": list(ORIGIN)},
    ]
    axes = [{"name": d, "type": "space", "unit": "micrometer"} for d in "zyx"]
    write_image(
        VALUES,
        str(folder / "a.zarr"),
        scale_factors=[],
        fmt=kinds[version](),
        axes=axes,
        coordinate_transformations=[first],
    )
    return "a.zarr"


def ome_zarr_py_04(folder):
    return _ome_zarr_py(folder, "0.4")


def ome_zarr_py_05(folder):
    return _ome_zarr_py(folder, "0.5")


def _ngff_zarr(folder, version, name="a.ome.zarr"):
    import ngff_zarr as nz

    place = [dict(zip("zyx", values, strict=True)) for values in (SPACING, ORIGIN)]
    image = nz.to_ngff_image(
        VALUES, list("zyx"), *place, axes_units=dict.fromkeys("zyx", "micrometer")
    )
    levels = nz.to_multiscales(image, scale_factors=[2])
    nz.to_ngff_zarr(str(folder / name), levels, version=version)
    return name


def ngff_zarr_04(folder):
    return _ngff_zarr(folder, "0.4")


def ngff_zarr_05(folder):
    return _ngff_zarr(folder, "0.5")


def ngff_zarr_06(folder):
    return _ngff_zarr(folder, "0.6")


def ngff_zarr_zipped(folder):
    return _ngff_zarr(folder, "0.5", "a.ozx")


def multiview_stitcher_zarr(folder):
    from multiview_stitcher import ngff_utils
    from multiview_stitcher import spatial_image_utils as si_utils

    sim = si_utils.get_sim_from_array(
        VALUES,
        dims=list("zyx"),
        scale=dict(zip("zyx", SPACING, strict=True)),
        translation=dict(zip("zyx", ORIGIN, strict=True)),
        transform_key="stage",
    )
    ngff_utils.write_sim_to_ome_zarr(sim, str(folder / "a.zarr"))
    return "a.zarr"


def _bioio_ome_zarr(folder, zarr_format):
    from bioio_ome_zarr.writers import OMEZarrWriter

    writer = OMEZarrWriter(
        str(folder / "a.zarr"),
        [SHAPE, tuple(n // 2 for n in SHAPE)],
        VALUES.dtype,
        zarr_format=zarr_format,
        axes_names=list("zyx"),
        axes_types=["space"] * 3,
        axes_units=["micrometer"] * 3,
        physical_pixel_size=list(SPACING),
    )
    writer.write_full_volume(VALUES)
    return "a.zarr"


def bioio_ome_zarr_04(folder):
    return _bioio_ome_zarr(folder, 2)


def bioio_ome_zarr_05(folder):
    return _bioio_ome_zarr(folder, 3)


def bioio_ome_tiff(folder):
    from bioio_base.types import PhysicalPixelSizes
    from bioio_ome_tiff.writers import OmeTiffWriter

    sizes = PhysicalPixelSizes(*SPACING)
    OmeTiffWriter.save(
        VALUES, folder / "a.ome.tiff", dim_order="ZYX", physical_pixel_sizes=sizes
    )
    return "a.ome.tiff"


def tifffile_ome(folder):
    import tifffile

    stated = {f"PhysicalSize{d}": s for d, s in zip("ZYX", SPACING, strict=True)}
    tifffile.imwrite(
        folder / "a.ome.tif", VALUES, tile=(16, 16), metadata={"axes": "ZYX", **stated}
    )
    return "a.ome.tif"


def tifffile_imagej(folder):
    import tifffile

    tifffile.imwrite(
        folder / "a.tif",
        VALUES,
        imagej=True,
        resolution=(1 / SPACING[2], 1 / SPACING[1]),
        metadata={"axes": "ZYX", "spacing": SPACING[0], "unit": "um"},
    )
    return "a.tif"


def tifffile_plain(folder):
    import tifffile

    tifffile.imwrite(folder / "a.tif", VALUES, photometric="minisblack")
    return "a.tif"


def nibabel_nifti(folder):
    import nibabel

    affine = np.diag([-SPACING[2], -SPACING[1], SPACING[0], 1.0])
    affine[:3, 3] = -ORIGIN[2], -ORIGIN[1], ORIGIN[0]
    image = nibabel.Nifti1Image(VALUES.T, affine)
    image.header.set_xyzt_units("mm")
    nibabel.save(image, folder / "a.nii.gz")
    return "a.nii.gz"


def pynrrd(folder):
    import nrrd

    header = {
        "space": "left-posterior-superior",
        "space directions": np.diag(SPACING[::-1]),
        "space origin": np.array(ORIGIN[::-1]),
        "space units": ["microns"] * 3,
    }
    nrrd.write(str(folder / "a.nrrd"), VALUES.T, header)
    return "a.nrrd"


def _simpleitk(folder, name):
    import SimpleITK

    image = SimpleITK.GetImageFromArray(VALUES)
    image.SetSpacing(SPACING[::-1])
    image.SetOrigin(ORIGIN[::-1])
    SimpleITK.WriteImage(image, str(folder / name))
    return name


def simpleitk_metaimage(folder):
    return _simpleitk(folder, "a.mha")


def simpleitk_nrrd(folder):
    return _simpleitk(folder, "a.nrrd")


def simpleitk_nifti(folder):
    return _simpleitk(folder, "a.nii.gz")


def pydicom(folder):
    from pydicom import Dataset
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

    (folder / "series").mkdir()
    series = generate_uid()
    for number, plane in enumerate(VALUES):
        data, data.file_meta = Dataset(), FileMetaDataset()
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data.SOPClassUID, data.SOPInstanceUID = MRImageStorage, generate_uid()
        data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID
        data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
        data.Modality, data.PatientID, data.PatientName = "MR", "1", "A"
        data.SeriesInstanceUID = data.StudyInstanceUID = series
        data.Rows, data.Columns = plane.shape
        data.PixelSpacing, data.SliceThickness = list(SPACING[1:]), SPACING[0]
        z = ORIGIN[0] + SPACING[0] * number
        data.ImagePositionPatient = [*ORIGIN[:0:-1], z]
        data.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        data.InstanceNumber, data.SamplesPerPixel = number + 1, 1
        data.PhotometricInterpretation, data.PixelRepresentation = "MONOCHROME2", 0
        data.BitsAllocated, data.BitsStored, data.HighBit = 16, 16, 15
        data.PixelData = plane.tobytes()
        # Names do not have the order of the slices.
        path = folder / "series" / f"{number * 5 % 8}.dcm"
        data.save_as(path, enforce_file_format=True)
    return "series"


if __name__ == "__main__":
    print(globals()[sys.argv[1]](Path(sys.argv[2])))
