"""Where other libraries find the voxels of an OME-Zarr image, each by its functions.

Run as a script by an interpreter that has the library, ``readers.py NAME PATH``. Prints
positions of the first and the last voxel, and the last voxel's value, as JSON.
"""

import json
import sys

import numpy as np


def _answer(values, scale, translation):
    values = np.asarray(values)
    values = values.reshape(values.shape[-3:])
    scale, translation = np.asarray(scale)[-3:], np.asarray(translation)[-3:]
    last = translation + scale * np.subtract(values.shape, 1)
    return {
        "first": translation.tolist(),
        "last": last.tolist(),
        "value": int(values[-1, -1, -1]),
    }


def iohub(path):
    from iohub.ngff import open_ome_zarr

    with open_ome_zarr(path, layout="fov", mode="r") as image:
        steps = image.metadata.multiscales[0].datasets[0].coordinate_transformations
        given = {step.type: getattr(step, step.type) for step in steps}
        name = image.metadata.multiscales[0].datasets[0].path
        return _answer(image[name][:], given["scale"], given["translation"])


def ome_zarr_py(path):
    from ome_zarr.io import parse_url
    from ome_zarr.reader import Reader

    node = next(iter(Reader(parse_url(path))()))
    steps = node.metadata["coordinateTransformations"][0]
    given = {step["type"]: step[step["type"]] for step in steps}
    return _answer(node.data[0], given["scale"], given["translation"])


def ngff_zarr(path):
    import ngff_zarr as nz

    image = nz.from_ngff_zarr(path).images[0]
    scale = [image.scale[d] for d in "zyx"]
    return _answer(image.data, scale, [image.translation[d] for d in "zyx"])


def multiview_stitcher(path):
    from multiview_stitcher import ngff_utils
    from multiview_stitcher import spatial_image_utils as si_utils

    image = ngff_utils.read_sim_from_ome_zarr(path)
    scale, start = (
        f(image) for f in (si_utils.get_spacing_from_sim, si_utils.get_origin_from_sim)
    )
    return _answer(image.data, *([v[d] for d in "zyx"] for v in (scale, start)))


def bioio(path):
    from bioio_ome_zarr import Reader

    reader = Reader(path)
    # It has no origin.
    scale = [getattr(reader.physical_pixel_sizes, d) for d in "ZYX"]
    return _answer(reader.get_image_data("ZYX"), scale, [0, 0, 0])


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[1]](sys.argv[2])))
