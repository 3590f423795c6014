"""Adapters for methods and reductions written for itk-dreg.

They turn instances of ``BlockPairRegistrationMethod`` and ``ReduceResultsMethod`` into
functions for `xdreg.Custom`. itk-dreg is imported when one of them is called.
"""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from xdreg.coordinates import grid_of
from xdreg.errors import InputError, MethodError
from xdreg.numerics.itk_transforms import displacement_to_itk
from xdreg.stores.itk_images import to_itk_image

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import xarray as xr

    from xdreg.grid import Grid
    from xdreg.registration.reductions import BlockResult

Blocks = Literal["rigid", "displacement"]

_log = logging.getLogger(__name__)


class BlockMethod:
    """A ``BlockPairRegistrationMethod`` as a registration method.

    Parameters
    ----------
    method
        An instance of the class.
    initial
        Whether to pass an identity as ``initial_transform``, or None for methods that
        accept none. The moving block is already warped by the field so far.
    masks
        Whether to pass ``fixed_mask`` and ``moving_mask``, images of 0 and 1, or None
        without a mask, to methods that take them.
    **options
        Further keyword arguments for the method.

    Notes
    -----
    Both blocks share a grid: the block's window with its overlap, which is also their
    requested region. ``block_info`` has the window's slices in voxels counted from the
    physical origin, and their starts as ``chunk_index``. An inverse that the method
    returns is not used, which the log says: the blended field has another, see
    `xdreg.inverse`. A result without success raises `xdreg.MethodError`, and the block
    counts as ``crashed``.

    Examples
    --------
    >>> method = BlockMethod(lambda **given: None, log_directory="logs")
    >>> import xdreg
    >>> stage = xdreg.Custom(method=method, level=1)
    """

    def __init__(
        self,
        method: Any,
        *,
        initial: bool = True,
        masks: bool = False,
        **options: Any,
    ) -> None:
        _check(method, "BlockPairRegistrationMethod")
        self._method, self._initial, self._options = method, initial, options
        self._masks = masks
        self.__name__ = str(getattr(method, "__name__", type(method).__name__))

    def __call__(
        self, fixed: xr.DataArray, moving: xr.DataArray, **options: Any
    ) -> Any:
        """Register two blocks on one grid; return an ``itk.Transform``."""
        interface = _interface()
        grid = grid_of(fixed, "fixed")
        pairs = zip(grid.origin, grid.spacing, strict=True)
        starts = [round(origin / step) for origin, step in pairs]
        if self._masks:
            options["fixed_mask"], options["moving_mask"] = map(_mask, (fixed, moving))
        result = self._method(
            fixed_subimage=to_itk_image(fixed),
            moving_subimage=to_itk_image(moving),
            initial_transform=_identity_transform(grid) if self._initial else None,
            block_info=interface.BlockInfo(
                chunk_index=starts, array_slice=_slices(starts, grid.shape)
            ),
            **(self._options | options),
        )
        if result.status != interface.BlockRegStatus.SUCCESS:
            status = interface.BlockRegStatus(result.status).name
            msg = f"{self.__name__} reports {status}"
            raise MethodError(msg)
        _tell_of_inverse(self.__name__, result)
        return result.transform


def _tell_of_inverse(name: str, result: Any) -> None:
    """Log that an inverse which a method or a reduction returns is not used."""
    if getattr(result, "inv_transform", None) is not None:
        _log.info(
            "the inverse that %s returns is not used, for it is that of its own part "
            "alone: field.dreg.inverse() inverts the whole field",
            name,
        )


def _mask(image: xr.DataArray) -> Any:
    """Return which voxels of a block count as an ITK image, None if all do."""
    if "mask" not in image.coords:
        return None
    return to_itk_image((image["mask"] > 0).astype(np.uint8))


class Reduction:
    """A ``ReduceResultsMethod`` as a reduction.

    Parameters
    ----------
    method
        An instance of the class.
    blocks
        Transform passed for each successful block: its ``"displacement"``, as an
        ``itk.DisplacementFieldTransform``, or the nearest ``"rigid"`` motion, as an
        Euler transform.
    **options
        Further keyword arguments for the method.

    Notes
    -----
    The transform that the method returns is applied before the field so far; so
    ``initial_transform`` is an identity. ``inv_transform`` is not used, which the log
    says: it leaves out the field so far, see `xdreg.inverse`.
    ``fixed_reader_ctor`` makes a reader with the geometry of the fixed image only.
    """

    def __init__(
        self, method: Any, *, blocks: Blocks = "displacement", **options: Any
    ) -> None:
        _check(method, "ReduceResultsMethod")
        if blocks not in get_args(Blocks):
            msg = f"blocks must be one of {get_args(Blocks)}, got {blocks!r}"
            raise InputError(msg)
        self._method, self._blocks, self._options = method, blocks, options

    def __call__(self, results: Iterator[BlockResult]) -> Any:
        """Reduce the results of all blocks; return an ``itk.Transform``."""
        # Those without a transform last: methods may take the first for an example.
        ordered = sorted(results, key=lambda result: result.displacement is None)
        located = [self._located(result) for result in ordered]
        image = located[0][1]
        found = self._method(
            block_results=[result for result, _ in located],
            fixed_reader_ctor=lambda **_: _reader(image),
            initial_transform=_identity_transform(image),
            **self._options,
        )
        transform = found.transform
        # Those of itk-dreg map points, too.
        if not hasattr(transform, "GetInputSpaceDimension"):
            name, found = type(self._method).__name__, type(transform).__name__
            msg = (
                f"{name} returned a {found}, which is no itk.Transform; take "
                "ReduceToDisplacementFieldMethod, or no reduction: by default blocks "
                "are blended"
            )
            raise MethodError(msg)
        _tell_of_inverse(type(self._method).__name__, found)
        return transform

    def _located(self, result: BlockResult) -> tuple[Any, Grid]:
        interface = _interface()
        first = np.rint(result.image.physical_to_index(result.core.origin)).astype(int)
        slices = _slices(first.tolist(), result.core.shape)
        if result.displacement is None:
            status, found = interface.BlockRegStatus.FAILURE, {}
        else:
            status = interface.BlockRegStatus.SUCCESS
            found = {
                "transform": _euler(result.fit("rigid"))
                if self._blocks == "rigid"
                else displacement_to_itk(result.displacement, result.grid),
                "transform_domain": _empty_image(result.grid),
            }
        pair = interface.BlockPairRegistrationResult(status=status, **found)
        info = interface.BlockInfo(chunk_index=list(result.index), array_slice=slices)
        located = interface.LocatedBlockResult(result=pair, fixed_info=info)
        return located, result.image


def _reader(grid: Grid) -> Any:
    """Return the part of an ``itk.ImageFileReader`` that gives the geometry."""
    image = _empty_image(grid)
    return SimpleNamespace(
        GetOutput=lambda: image, UpdateOutputInformation=lambda: None
    )


def _slices(starts: Sequence[int], shape: Sequence[int]) -> list[slice]:
    return [slice(a, a + n) for a, n in zip(starts, shape, strict=True)]


def _empty_image(grid: Grid) -> Any:
    """Return an ITK image with a geometry and without voxels."""
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


def _check(method: Any, kind: str) -> None:
    if not callable(method):
        msg = (
            f"method must be an instance of itk-dreg's {kind}, which can be called, "
            f"got {method!r}"
        )
        raise InputError(msg)


def _interface() -> Any:
    """Return the module with itk-dreg's classes of blocks and results.

    itk-dreg 0.0.1 calls ``np.product``, which numpy 2 has dropped, in this module only.
    There, and nowhere else, ``np`` becomes a copy of numpy's names that has it.
    """
    from itk_dreg.base import image_block_interface as interface

    if not hasattr(getattr(interface, "np", np), "product"):
        names = {**vars(np), "product": np.prod}
        interface.np = SimpleNamespace(**names)
    return interface
