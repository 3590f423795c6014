"""Conversion of fields to and from the files and objects of other tools.

`write_transform` and `open_transform` choose a file format by its suffix. The other
functions convert objects in memory. Each format has a module, which states its
conventions: direction of the transform, order of components, unit, and origin.

Read `files`, `prepare`, then any format: `transform_files` (ITK), `vector_images`
(ANTs, ITK), `elastix_files`, `bigwarp`. Objects are in `memory` (ITK, SimpleITK,
ITK-Wasm), `matrices` (spatialdata, multiview-stitcher) and `dense_grids` (torch).
`itk_dreg` runs methods
written for itk-dreg.
"""

from xdreg.bridges.dense_grids import to_grid
from xdreg.bridges.files import open_transform, write_transform
from xdreg.bridges.matrices import (
    from_multiview_stitcher,
    from_spatialdata,
    to_matrix,
    to_multiview_stitcher,
    to_spatialdata,
)
from xdreg.bridges.memory import (
    from_itk_transform,
    from_itkwasm,
    from_simpleitk,
    to_itk_transform,
    to_itkwasm,
    to_simpleitk,
)

__all__ = [
    "from_itk_transform",
    "from_itkwasm",
    "from_multiview_stitcher",
    "from_simpleitk",
    "from_spatialdata",
    "open_transform",
    "to_grid",
    "to_itk_transform",
    "to_itkwasm",
    "to_matrix",
    "to_multiview_stitcher",
    "to_simpleitk",
    "to_spatialdata",
    "write_transform",
]


def __dir__() -> list[str]:
    """Return the public names."""
    return __all__
