"""Transform files, read by ITK."""

import itk


def transforms(path):
    """Return the transforms of a file.

    Elastix is loaded first: ITK crashes in a process that loads it between two reads.
    """
    getattr(itk, "ElastixRegistrationMethod", None)
    return list(itk.transformread(str(path)))
