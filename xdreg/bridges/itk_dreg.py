"""Methods and reductions written for itk-dreg, in xdreg.

itk-dreg asks for subclasses of ``BlockPairRegistrationMethod`` and
``ReduceResultsMethod``; here they become functions as `xdreg.Custom` takes them. The
package itk-dreg is imported when one of them is called, not before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from dask.base import tokenize

from xdreg.coordinates import grid_of
from xdreg.errors import InputError, MethodError
from xdreg.numerics.itk_transforms import displacement_to_itk
from xdreg.stores.itk_images import to_itk_image

if TYPE_CHECKING:
    from collections.abc import Iterator

    import xarray as xr

    from xdreg.grid import Grid
    from xdreg.registration.reductions import BlockResult

Blocks = Literal["rigid", "displacement"]


class BlockMethod:
    """A ``BlockPairRegistrationMethod`` as a registration method.

    Parameters
    ----------
    method
        An instance of it.
    initial
        Whether to pass an identity as ``initial_transform``; else None. The moving
        block is pulled through the field so far already, so that nothing is left to
        start from. Some methods, such as itk-dreg's own for elastix with B-splines,
        bear no initial transform.
    **options
        Further keyword arguments for it.

    Notes
    -----
    Both blocks lie on one grid, that of the window with its overlap, which is also
    their requested region. ``block_info`` tells its voxels, counted from the physical
    origin: their slices, and as ``chunk_index`` where they begin, for a method does not
    know how many blocks there are. Masks are not passed on. A result without success
    counts as `xdreg.MethodError`, and the block as ``crashed``.

    Examples
    --------
    >>> method = BlockMethod(lambda **given: None, log_directory="logs")
    >>> import xdreg
    >>> stage = xdreg.Custom(method=method, level=1)
    """

    def __init__(self, method: Any, *, initial: bool = True, **options: Any) -> None:
        if not callable(method):
            msg = (
                "method must be an instance of itk-dreg's BlockPairRegistrationMethod, "
                f"which can be called, got {method!r}"
            )
            raise InputError(msg)
        self._method, self._initial, self._options = method, initial, options
        self.__name__ = _name_of(method)

    def __dask_tokenize__(self) -> object:
        """Identify by the method's class, its attributes, and the options."""
        return ("xdreg.BlockMethod", *_identity(self._method, self._options))

    def __call__(
        self, fixed: xr.DataArray, moving: xr.DataArray, **options: Any
    ) -> Any:
        """Register two blocks on one grid; return an ``itk.Transform``."""
        from itk_dreg.base.image_block_interface import BlockInfo, BlockRegStatus

        grid = grid_of(fixed, "fixed")
        starts = [
            round(origin / step)
            for origin, step in zip(grid.origin, grid.spacing, strict=True)
        ]
        slices = [slice(a, a + n) for a, n in zip(starts, grid.shape, strict=True)]
        _complete_numpy()
        result = self._method(
            fixed_subimage=to_itk_image(fixed),
            moving_subimage=to_itk_image(moving),
            initial_transform=_identity_transform(grid) if self._initial else None,
            block_info=BlockInfo(chunk_index=starts, array_slice=slices),
            **(self._options | options),
        )
        if result.status != BlockRegStatus.SUCCESS:
            msg = f"{self.__name__} reports {BlockRegStatus(result.status).name}"
            raise MethodError(msg)
        return result.transform


class Reduction:
    """A ``ReduceResultsMethod`` as a reduction.

    Parameters
    ----------
    method
        An instance of it.
    blocks
        What it is given of each block that succeeded: its ``"displacement"``, as an
        ``itk.DisplacementFieldTransform``; or the ``"rigid"`` motion that comes nearest
        to it, as an Euler transform.
    **options
        Further keyword arguments for it.

    Notes
    -----
    ``initial_transform`` is an identity: what the method returns comes before the field
    so far. Its ``inv_transform`` is not used. ``fixed_reader_ctor`` makes a reader that
    knows the fixed image's geometry, and has no voxels.
    """

    def __init__(
        self, method: Any, *, blocks: Blocks = "displacement", **options: Any
    ) -> None:
        if not callable(method):
            msg = (
                "method must be an instance of itk-dreg's ReduceResultsMethod, which "
                f"can be called, got {method!r}"
            )
            raise InputError(msg)
        if blocks not in get_args(Blocks):
            msg = f"blocks must be one of {get_args(Blocks)}, got {blocks!r}"
            raise InputError(msg)
        self._method, self._blocks, self._options = method, blocks, options

    def __dask_tokenize__(self) -> object:
        """Identify by the method's class, its attributes, and the options."""
        identity = _identity(self._method, self._options)
        return ("xdreg.Reduction", self._blocks, *identity)

    def __call__(self, results: Iterator[BlockResult]) -> Any:
        """Reduce the results of all blocks; return an ``itk.Transform``."""
        _complete_numpy()
        located = [self._located(result) for result in results]
        image = located[0][1]
        found = self._method(
            block_results=[result for result, _ in located],
            fixed_reader_ctor=lambda **_: _Reader(image),
            initial_transform=_identity_transform(image),
            **self._options,
        )
        return found.transform

    def _located(self, result: BlockResult) -> tuple[Any, Grid]:
        from itk_dreg.base.image_block_interface import (
            BlockInfo,
            BlockPairRegistrationResult,
            BlockRegStatus,
            LocatedBlockResult,
        )

        first = np.rint(result.image.physical_to_index(result.core.origin)).astype(int)
        slices = [
            slice(int(a), int(a) + n)
            for a, n in zip(first, result.core.shape, strict=True)
        ]
        if result.displacement is None:
            pair = BlockPairRegistrationResult(status=BlockRegStatus.FAILURE)
        else:
            rigid = self._blocks == "rigid"
            pair = BlockPairRegistrationResult(
                status=BlockRegStatus.SUCCESS,
                transform=_euler(result.fit("rigid"))
                if rigid
                else displacement_to_itk(result.displacement, result.grid),
                transform_domain=_empty_image(result.grid),
            )
        info = BlockInfo(chunk_index=list(result.index), array_slice=slices)
        return LocatedBlockResult(result=pair, fixed_info=info), result.image


class _Reader:
    """What of an ``itk.ImageFileReader`` tells an image's geometry."""

    def __init__(self, grid: Grid) -> None:
        self._image = _empty_image(grid)

    def GetOutput(self) -> Any:
        return self._image

    def UpdateOutputInformation(self) -> None:
        """Do nothing: it is known from the start."""


def _empty_image(grid: Grid) -> Any:
    """Return an ITK image of a geometry, without voxels."""
    import itk

    image = itk.Image[itk.F, grid.ndim].New()
    image.SetRegions([int(n) for n in grid.shape[::-1]])
    image.SetSpacing([float(s) for s in grid.spacing[::-1]])
    image.SetOrigin([float(o) for o in grid.origin[::-1]])
    return image


def _identity_transform(grid: Grid) -> Any:
    import itk

    return itk.TranslationTransform[itk.D, grid.ndim].New()


def _euler(matrix: np.ndarray[Any, np.dtype[np.float64]]) -> Any:
    """Return a rigid matrix in dims order as ITK's Euler transform."""
    import itk

    ndim = len(matrix) - 1
    kind = itk.Euler3DTransform if ndim == 3 else itk.Euler2DTransform
    transform = kind[itk.D].New()
    turn = np.ascontiguousarray(matrix[:-1, :-1][::-1, ::-1])
    transform.SetMatrix(itk.matrix_from_array(turn))
    transform.SetOffset([float(v) for v in matrix[:-1, -1][::-1]])
    return transform


def _name_of(method: Any) -> str:
    return str(getattr(method, "__name__", type(method).__name__))


def _identity(method: Any, options: dict[str, Any]) -> tuple[str, str]:
    """Return what tells a method from others."""
    kind = method if hasattr(method, "__qualname__") else type(method)
    state = getattr(method, "__dict__", {})
    return f"{kind.__module__}.{kind.__qualname__}", tokenize(state, options)


def _complete_numpy() -> None:
    """Give numpy a name that itk-dreg 0.0.1 needs, and that numpy 2 has dropped."""
    if not hasattr(np, "product"):
        setattr(np, "product", np.prod)  # noqa: B010 - not known to type checkers
