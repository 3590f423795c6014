"""Methods and reductions of itk-dreg; the classes are in `xdreg.bridges.itk_dreg`."""

from xdreg.bridges.itk_dreg import BlockMethod, Reduction

__all__ = ["BlockMethod", "Reduction"]


def __dir__() -> list[str]:
    """Return the public names."""
    return __all__
