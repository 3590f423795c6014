"""Registration with itk-dreg, in its own environment.

``python dreg.py itk_dreg FIXED MOVING OUT REPEATS`` does as ``peers.py``, and
``python dreg.py reduction COUNT…`` prints as JSON the milliseconds of CPU per field
point that its reduction takes, for each number of blocks per axis.

It is used as its example ``ElastixDeformableRegistration`` does: images centred on each
other, then in each block rigid, affine and B-spline at elastix's defaults, then its
reduction to a displacement field, on every fifth voxel. Blocks are halves of the image
along every axis, with a quarter of overlap. One thread: its B-spline maps have two
metrics and crash with more, and elastix holds the GIL.
"""

import functools
import json
import logging
import sys

import itk
import itk_dreg.itk
import numpy as np
from itk_dreg.elastix.register import ElastixDRegBlockPairRegistrationMethod
from itk_dreg.elastix.serialize import parameter_object_to_list
from itk_dreg.elastix.util import compute_initial_translation
from itk_dreg.reduce_dfield.dreg import ReduceToDisplacementFieldMethod
from itk_dreg.reduce_dfield.transform import collection_to_deformation_field_transform
from itk_dreg.reduce_dfield.transform_collection import (
    TransformCollection,
    TransformEntry,
)
from itk_dreg.register import register_images
from peers import clock, since

IMAGE = itk.Image[itk.F, 3]
FIELD_STEP = 5.0
OVERLAP = 0.25

#: Field points along an axis on which the reduction is timed.
POINTS = 8


def register(fixed, moving, out):
    """Register files in 2 × 2 × 2 blocks and write the field; return the seconds."""
    began = clock()
    readers = [
        functools.partial(itk_dreg.itk.make_reader, filepath=path, image_type=IMAGE)
        for path in (fixed, moving)
    ]
    heads = [reader().GetOutput() for reader in readers]
    maps = itk.ParameterObject.New()
    for name in ("rigid", "affine", "bspline"):
        maps.AddParameterMap(itk.ParameterObject.GetDefaultParameterMap(name))
    shape = list(heads[0].GetLargestPossibleRegion().GetSize())[::-1]
    start = compute_initial_translation(target_image=heads[0], source_image=heads[1])
    scheduled = register_images(
        fixed_reader_ctor=readers[0],
        moving_reader_ctor=readers[1],
        block_registration_method=ElastixDRegBlockPairRegistrationMethod(),
        reduce_method=ReduceToDisplacementFieldMethod(),
        initial_transform=start,
        fixed_chunk_size=[-(-int(n) // 2) for n in shape],
        overlap_factors=[OVERLAP] * 3,
        displacement_grid_scale_factors=[FIELD_STEP] * 3,
        elx_parameter_object_serial=parameter_object_to_list(maps),
        # From the last to the first, as elastix numbers them.
        itk_transform_types=[
            itk.BSplineTransform[itk.D, 3, 3],
            itk.AffineTransform[itk.D, 3],
            itk.Euler3DTransform[itk.D],
        ],
        preprocess_initial_transform=True,
    )
    result = scheduled.registration_result.compute(scheduler="single-threaded")
    seconds = since(began)
    print("failed blocks:", int((result.status != 0).sum()))
    # The last transform added is applied first.
    total = itk.CompositeTransform[itk.D, 3].New()
    total.AddTransform(result.transforms.transform)
    total.AddTransform(start)
    sample = itk.TransformToDisplacementFieldFilter[
        itk.Image[itk.Vector[itk.F, 3], 3], itk.D
    ].New()
    sample.SetTransform(total)
    sample.SetReferenceImage(itk.imread(fixed, itk.F))
    sample.SetUseReferenceImage(True)
    sample.Update()
    itk.imwrite(sample.GetOutput(), out)
    return seconds


def reduction(count, block=32.0):
    """Return milliseconds of CPU per field point, of ``count`` blocks per axis."""
    collection = TransformCollection(
        blend_method=TransformCollection.blend_distance_weighted_mean
    )
    for index in np.ndindex((count,) * 3):
        window = itk.Image[itk.F, 3].New()
        window.SetRegions([int(block * (1 + OVERLAP))] * 3)
        window.SetOrigin([block * (i - OVERLAP / 2) for i in index])
        transform = itk.BSplineTransform[itk.D, 3, 3].New()
        transform.SetTransformDomainOrigin(list(window.GetOrigin()))
        transform.SetTransformDomainPhysicalDimensions([block * (1 + OVERLAP)] * 3)
        transform.SetTransformDomainMeshSize([5] * 3)
        chain = itk.CompositeTransform[itk.D, 3].New()
        chain.AddTransform(transform)
        collection.push(TransformEntry(transform=chain, domain=window))
    reference = itk.Image[itk.F, 3].New()
    size = int(count * block)
    reference.SetRegions([size] * 3)
    identity = itk.TranslationTransform[itk.D, 3].New()
    began = clock()
    collection_to_deformation_field_transform(
        collection, reference, identity, [size / POINTS] * 3
    )
    return 1000 * since(began)[1] / POINTS**3


if __name__ == "__main__":
    what, *arguments = sys.argv[1:]
    logging.disable(logging.WARNING)
    # Once elastix is loaded, itk 5.4.0 can no longer load what this needs, and all
    # blocks fail.
    np.array(itk.Image[itk.F, 3].New().GetDirection())
    itk.MultiThreaderBase.SetGlobalMaximumNumberOfThreads(1)
    if what == "reduction":
        reduction(1)
        print(json.dumps([reduction(int(count)) for count in arguments]))
    else:
        fixed, moving, out, repeats = arguments
        print(json.dumps([register(fixed, moving, out) for _ in range(int(repeats))]))
