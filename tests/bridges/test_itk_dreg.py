"""Methods and reductions of itk-dreg's interface, run by xdreg."""

import importlib
import subprocess
import sys
from pathlib import Path

import itk
import numpy as np
import pytest

import xdreg
from tests.helpers.matrices import corners_error, matrix_of, turn
from tests.helpers.pairs import textured
from xdreg.bridges.itk_dreg import BlockMethod, Reduction
from xdreg.engines.linear import linear
from xdreg.grid import Grid
from xdreg.numerics.itk_transforms import matrix_from_itk
from xdreg.registration.method_identity import what_is_known
from xdreg.registration.reductions import BlockResult

try:
    from itk_dreg.base.image_block_interface import (
        BlockPairRegistrationResult,
        BlockRegStatus,
        RegistrationTransformResult,
    )
    from itk_dreg.base.registration_interface import (
        BlockPairRegistrationMethod,
        ReduceResultsMethod,
    )
except ImportError:
    BlockPairRegistrationMethod = ReduceResultsMethod = object
    installed = False
else:
    installed = True

needs_itk_dreg = pytest.mark.skipif(not installed, reason="itk-dreg is not installed")


def test_the_adapter_loads_without_itk_dreg():
    code = (
        "import sys; sys.modules['itk_dreg'] = None; import xdreg; "
        "xdreg.itk_dreg.BlockMethod(print); xdreg.itk_dreg.Reduction(print); "
        "print('itk' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True
    )
    assert done.stdout.strip() == "False"


def test_what_is_no_method_is_refused():
    with pytest.raises(xdreg.InputError, match="BlockPairRegistrationMethod"):
        BlockMethod("elastix")
    with pytest.raises(xdreg.InputError, match="ReduceResultsMethod"):
        Reduction(None)
    with pytest.raises(xdreg.InputError, match="blocks must be"):
        Reduction(print, blocks="affine")


class Shift(BlockPairRegistrationMethod):
    """Finds a translation; fails where a block is dark."""

    def __init__(self, least):
        self.least = least

    def __call__(
        self, fixed_subimage, moving_subimage, initial_transform, block_info, **options
    ):
        assert options == {"extra": 3}
        assert initial_transform.IsLinear()
        assert block_info.shape == list(itk.array_view_from_image(fixed_subimage).shape)
        if np.mean(itk.array_view_from_image(fixed_subimage)) < self.least:
            return BlockPairRegistrationResult(status=BlockRegStatus.FAILURE)
        images = map(xdreg.from_itk_image, (fixed_subimage, moving_subimage))
        matrix = linear(*images, kind="translation")
        transform = itk.TranslationTransform[itk.D, 2].New()
        transform.SetOffset([float(v) for v in matrix[1::-1, 2]])
        return BlockPairRegistrationResult(
            status=BlockRegStatus.SUCCESS,
            transform=transform,
            transform_domain=fixed_subimage,
        )


class MedianShift(ReduceResultsMethod):
    """The median of the blocks' own shifts, where they begin."""

    def __call__(self, block_results, fixed_reader_ctor, initial_transform, **options):
        image = fixed_reader_ctor().GetOutput()
        shifts = []
        for located in block_results:
            start = [part.start for part in located.fixed_info.array_slice]
            if located.result.status != BlockRegStatus.SUCCESS:
                continue
            point = image.TransformIndexToPhysicalPoint([int(v) for v in start[::-1]])
            moved = located.result.transform.TransformPoint(point)
            shifts.append(np.subtract(list(moved), list(point)))
        transform = itk.TranslationTransform[itk.D, 2].New()
        transform.SetOffset(np.median(shifts, axis=0).tolist())
        return RegistrationTransformResult(transform=transform, inv_transform=None)


@needs_itk_dreg
@pytest.mark.parametrize("blocks", ["rigid", "displacement"])
def test_a_method_and_a_reduction_of_itk_dreg(blocks, tmp_path):
    fixed, moving, truth = textured()
    dark = fixed.copy()
    dark[:76, :86] = dark[:76, :86] / 100
    stage = xdreg.Custom(
        method=BlockMethod(Shift(least=0.02), extra=3), isolated=False,
        reduction=Reduction(MedianShift(), blocks=blocks),
        level=0, block_shape=(76, 86), overlap=0,
    )  # fmt: skip
    assert stage.name == "Shift"
    field = dark.dreg.register(
        moving, stages=[stage], metric="lncc", progress=False, workdir=tmp_path / "run"
    )
    assert "crashed" in xdreg.status_counts(field)
    (text,) = (
        path.read_text("utf-8")
        for path in (tmp_path / "run").glob("stage_00/errors/0.0.txt")
    )
    assert "Shift reports FAILURE" in text
    # The adapter helps itk-dreg alone with what numpy 2 has dropped.
    assert hasattr(np, "product") == np.__version__.startswith("1.")
    assert corners_error(matrix_of(field), truth, fixed.shape) < 0.1


@needs_itk_dreg
def test_its_own_consensus_takes_rigid_blocks():
    module = importlib.import_module("itk_dreg.reduce_dfield.dreg")
    grid = Grid(("z", "y", "x"), (8, 8, 8), (1.0, 1.0, 2.0), (3.0, 4.0, 5.0))
    matrix = turn(3, 5)
    points = np.stack(np.meshgrid(*map(grid.axis, grid.dims), indexing="ij"), -1)
    moved = points @ matrix[:3, :3].T + matrix[:3, 3]
    values = np.moveaxis(moved - points, -1, 0).astype(np.float32)
    results = [
        BlockResult((0, 0, i), "success", grid, grid, grid, values, 1.0)
        for i in range(3)
    ]
    results.append(BlockResult((0, 0, 3), "crashed", grid, grid, grid, None, np.nan))
    euler = module.EulerConsensusReduceResultsMethod()
    found = matrix_from_itk(Reduction(euler, blocks="rigid")(iter(results)))
    # It counts an identity as one of the rotations.
    angle = np.rad2deg(np.arcsin(found[2, 1]))
    assert 3 < angle < 5.01
    np.testing.assert_allclose(found[:3, 3], matrix[:3, 3], atol=1e-4)


@needs_itk_dreg
def test_a_passthrough_of_blocks_of_which_the_first_failed():
    grid = Grid(("z", "y", "x"), (8, 8, 8), (1.0, 1.0, 2.0), (3.0, 4.0, 5.0))
    values = np.full((3, 8, 8, 8), 1.5, np.float32)
    results = [
        BlockResult((0, 0, 0), "crashed", grid, grid, grid, None, np.nan),
        BlockResult((0, 0, 1), "success", grid, grid, grid, values, 1.0),
    ]

    def first(block_results, **_):
        found = next(iter(block_results)).result.transform
        return RegistrationTransformResult(transform=found, inv_transform=None)

    found = Reduction(first)(iter(results))
    moved = list(found.TransformPoint([7.0, 6.0, 5.0]))
    np.testing.assert_allclose(moved, [8.5, 7.5, 6.5])
    module = importlib.import_module("itk_dreg.reduce_dfield.dreg")
    collection = module.TransformCollectionReduceResultsMethod()
    with pytest.raises(xdreg.MethodError, match="ReduceToDisplacementField"):
        Reduction(collection)(iter(results))


@needs_itk_dreg
def test_inverses_are_left_out_and_the_log_says_so(caplog):
    fixed, moving, _ = textured()
    matrix = linear(fixed, moving, kind="translation")
    there, back = (itk.TranslationTransform[itk.D, 2].New() for _ in range(2))
    there.SetOffset(matrix[1::-1, 2].tolist())
    back.SetOffset((-matrix[1::-1, 2]).tolist())

    def method(**given):
        return BlockPairRegistrationResult(
            status=BlockRegStatus.SUCCESS,
            transform=there,
            transform_domain=given["fixed_subimage"],
            inv_transform=back,
            inv_transform_domain=given["fixed_subimage"],
        )

    def reduction(**given):
        return RegistrationTransformResult(transform=there, inv_transform=back)

    stage = xdreg.Custom(
        method=BlockMethod(method),
        reduction=Reduction(reduction),
        level=0,
        block_shape=64,
        isolated=False,
    )
    with caplog.at_level("INFO", "xdreg"):
        field = fixed.dreg.register(
            moving, initial=np.eye(3), stages=stage, metric="ncc", progress=False
        )
    for name in ("method", "function"):
        assert f"the inverse that {name} returns is not used" in caplog.text
    inverse = field.dreg.inverse()
    points = np.array([[60.0, 70.0], [80.0, 90.0]])
    there_and_back = inverse.dreg.transform_points(field.dreg.transform_points(points))
    np.testing.assert_allclose(there_and_back, points, atol=1e-3)


@needs_itk_dreg
def test_masks_reach_a_method_that_takes_them():
    fixed, moving, _ = textured()
    marked = [
        image.assign_coords(mask=(image.dims, np.asarray(image > 0.5)))
        for image in (fixed, moving)
    ]
    seen = {}

    def method(fixed_subimage, fixed_mask, moving_mask, **_):
        seen["fixed"] = np.array(itk.array_view_from_image(fixed_mask))
        seen["moving"] = np.array(itk.array_view_from_image(moving_mask))
        return BlockPairRegistrationResult(
            status=BlockRegStatus.SUCCESS,
            transform=itk.TranslationTransform[itk.D, 2].New(),
            transform_domain=fixed_subimage,
        )

    BlockMethod(method, masks=True)(*marked)
    np.testing.assert_array_equal(seen["fixed"], fixed > 0.5)
    np.testing.assert_array_equal(seen["moving"], moving > 0.5)


def test_methods_are_told_apart():
    def token(value):
        known = what_is_known(value, "it")
        assert not known.unknown
        return known.token

    one, other = Shift(0.1), Shift(0.2)
    assert token(BlockMethod(one)) == token(BlockMethod(Shift(0.1)))
    assert token(BlockMethod(one)) != token(BlockMethod(other))
    assert token(BlockMethod(one, a=1)) != token(BlockMethod(one))
    assert token(Reduction(one, blocks="rigid")) != token(Reduction(one))


@needs_itk_dreg
def test_its_blend_takes_displacements_and_leaves_out_what_failed():
    module = importlib.import_module("itk_dreg.reduce_dfield.dreg")
    image = Grid(("z", "y", "x"), (6, 6, 12), (1.0, 1.0, 2.0), (3.0, 4.0, 5.0))
    results = []
    for number, shift in enumerate((0.5, 0.5, None)):
        part = image.window(
            (slice(0, 6), slice(0, 6), slice(4 * number, 4 * number + 4))
        )
        values = None if shift is None else np.full((3, *part.shape), shift, np.float32)
        status = "crashed" if shift is None else "success"
        results.append(
            BlockResult((0, 0, number), status, part, image, part, values, 1.0)
        )
    method = module.ReduceToDisplacementFieldMethod()
    blend = Reduction(method, displacement_grid_scale_factors=[1.0, 1.0, 1.0])
    point = image.index_to_physical([2, 2, 3])[::-1].tolist()
    moved = list(blend(reversed(results)).TransformPoint(point))
    np.testing.assert_allclose(np.subtract(moved, point), 0.5, atol=1e-5)


PAGE = Path(__file__).parents[2] / "docs" / "from_itk_dreg.md"


CODE = """
import dataclasses, re, sys
from pathlib import Path
import itk, numpy as np, xdreg

pair = xdreg.datasets.phantom_pair((72, 76, 80), amplitude=1.0)
names = {"fixed": pair.fixed.compute(), "moving": pair.moving.compute()}
names |= {"xdreg": xdreg, "itk": itk, "np": np}
page = Path(sys.argv[1])
for code in re.findall(r"```python\\n(.*?)```", page.read_text("utf-8"), re.DOTALL):
    exec(compile(code, str(page), "exec"), names)
    if "stage" in names:
        # Another process would load Elastix once more.
        stage = dataclasses.replace(names.pop("stage"), isolated=False)
        field = names["fixed"].dreg.register(
            names["moving"], stages=[stage], progress=False
        )
        assert xdreg.status_counts(field) == {"success": 1}
    print("ran")
"""


@needs_itk_dreg
@pytest.mark.slow
def test_the_code_of_the_page_for_its_users_runs():
    """In a process of its own: it loads Elastix, which ITK cannot bear at any time."""
    command = [sys.executable, "-c", CODE, PAGE]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("ran") == 4
