"""Fields handed to other tools and taken from them.

`write_transform` and `open_transform` choose a format by the suffix of a file; the
other functions speak to a tool's objects in memory. Each format is a module of its own,
and what tools differ in is said there: which way a transform maps, the order of its
components, its unit, and where half a voxel goes.
"""

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
    "to_itk_transform",
    "to_itkwasm",
    "to_matrix",
    "to_multiview_stitcher",
    "to_simpleitk",
    "to_spatialdata",
    "write_transform",
]
