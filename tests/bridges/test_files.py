"""Fields through the files and objects of other tools: points keep their places."""

import json

import itk
import numpy as np
import pytest
import xarray as xr

import xdreg
from tests.helpers.fields import Known, moving_like
from xdreg import bridges
from xdreg.fields.composition import compose
from xdreg.fields.field import field_grid, fixed_grid, in_units, make_field
from xdreg.grid import Grid
from xdreg.numerics.itk_transforms import displacement_image

TURN = np.array([[0.9, 0.1, 3.0], [-0.2, 1.1, -4.0], [0.0, 0.0, 1.0]])


def points_of(known, count=40):
    """Return fixed points well within the image, off the grid."""
    lower, upper = (np.asarray(b) for b in known.fixed.bounds)
    share = np.random.default_rng(2).uniform(0.15, 0.85, (count, len(lower)))
    return lower + share * (upper - lower)


def difference(one, other):
    assert field_grid(one) == field_grid(other)
    return float(np.abs(one.displacement.values - other.displacement.values).max())


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("suffix", [".nrrd", ".mha", ".nii", ".nii.gz", ".h5", ".tfm"])
def test_files_of_itk_are_in_millimetres_and_come_back(tmp_path, suffix, ndim):
    field = Known(ndim, 5.0).field
    path = tmp_path / f"warp{suffix}"
    field.dreg.to_file(path)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    raw = xdreg.open_transform(path)
    grid = field_grid(raw)
    assert grid.units == "millimeter"
    np.testing.assert_allclose(
        grid.spacing, np.multiply(field_grid(field).spacing, 1e-3), rtol=1e-6
    )
    again = xdreg.open_transform(path, like=field)
    assert difference(again, field) < 1e-4


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("affine", [False, True])
def test_itk_maps_points_as_the_field_does(tmp_path, ndim, affine):
    known = Known(ndim, 20.0)
    path = tmp_path / "warp.h5"
    xdreg.write_transform(known.field, path, affine=affine, units="micrometer")
    (transform,) = itk.transformread(str(path))
    points = points_of(known)
    found = [list(transform.TransformPoint(p[::-1].tolist()))[::-1] for p in points]
    expected = known.field.dreg.transform_points(points)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    back = xdreg.open_transform(path, units="micrometer")
    assert difference(back, known.field) < 1e-4
    far = known.fixed.centre + 1000.0
    moved = np.array(list(transform.TransformPoint(far[::-1].tolist())))[::-1]
    # Only the affine part goes on beyond the grid: the nearest to all that bends.
    matrix = bridges.to_matrix(known.field, tolerance=np.inf)
    turned = matrix[:-1, :-1] @ far + matrix[:-1, -1]
    np.testing.assert_allclose(moved, turned if affine else far, rtol=1e-9)


def test_itk_goes_on_with_the_turn_of_a_field_beyond_its_grid():
    known = Known(3, 20.0, amplitude=0.0)
    transform = known.field.dreg.to_itk_transform(affine=True)
    far = known.fixed.centre + 1000.0
    moved = np.array(list(transform.TransformPoint(far[::-1].tolist())))[::-1]
    # The field holds single precision over a hundredth of that distance.
    np.testing.assert_allclose(moved, known.forth(far[None])[0], atol=1e-3)


def test_nanometres_are_not_lost_in_single_precision(tmp_path):
    grid = Grid(
        ("z", "y", "x"), (3, 4, 5), (40.0, 4.0, 4.0), (1e6, 2e6, 3e6), "nanometer"
    )
    values = np.full((3, 3, 4, 5), 2.5, np.float32)
    field = make_field(values, grid)
    for name in ("a.nrrd", "a.nii.gz", "a.h5"):
        field.dreg.to_file(tmp_path / name)
        raw = field_grid(xdreg.open_transform(tmp_path / name))
        found = raw.to_units("nanometer")
        np.testing.assert_allclose(found.spacing, grid.spacing, rtol=1e-6)
        np.testing.assert_allclose(found.origin, grid.origin, atol=0.2)
        again = xdreg.open_transform(tmp_path / name, like=field)
        np.testing.assert_allclose(again.displacement, values, rtol=1e-5)


def test_units_are_asked_for_and_never_guessed(tmp_path):
    field = Known(2).field
    field.dreg.to_file(tmp_path / "um.nrrd", units="micrometer")
    as_millimetres = xdreg.open_transform(tmp_path / "um.nrrd")
    assert field_grid(as_millimetres).spacing == field_grid(field).spacing
    right = xdreg.open_transform(tmp_path / "um.nrrd", units="micrometer", like=field)
    assert difference(right, field) < 1e-5
    pixels = make_field(np.ones((2, 3, 4), np.float32), Grid(
        ("y", "x"), (3, 4), (1.0, 1.0), (0.0, 0.0)))  # fmt: skip
    pixels.dreg.to_file(tmp_path / "pixels.nrrd")
    back = xdreg.open_transform(tmp_path / "pixels.nrrd")
    np.testing.assert_array_equal(back.displacement, pixels.displacement)
    with pytest.raises(xdreg.InputError, match="do not convert"):
        pixels.dreg.to_file(tmp_path / "more.nrrd", units="micrometer")


def test_a_step_coarsens(tmp_path):
    field = Known(3).field
    field.dreg.to_file(tmp_path / "coarse.nrrd", step=2)
    coarse = xdreg.open_transform(tmp_path / "coarse.nrrd")
    expected = field_grid(field).every((2, 2, 2))
    assert field_grid(coarse).shape == expected.shape
    again = xdreg.open_transform(tmp_path / "coarse.nrrd", like=expected)
    ours = compose(field, like=expected)
    assert difference(again, ours) < 1e-4
    transform = field.dreg.to_itk_transform(step=2)
    size = tuple(transform.GetDisplacementField().GetLargestPossibleRegion().GetSize())
    assert size[::-1] == expected.shape


def test_what_does_not_fit_into_memory_is_said(tmp_path, monkeypatch):
    import psutil

    class Little:
        available = 1e5

    monkeypatch.setattr(psutil, "virtual_memory", Little)
    field = Known(3).field
    writers = {
        "image": lambda step: field.dreg.to_file(tmp_path / "a.nrrd", step=step),
        "file": lambda step: field.dreg.to_file(
            tmp_path / "a.h5", step=step, affine=True
        ),
        "memory": lambda step: field.dreg.to_itk_transform(step=step),
    }
    for write in writers.values():
        # A step that does not fit is no step to count from.
        for step in (1, 2):
            with pytest.raises(xdreg.InputError, match=r"coarsen it: step=3$"):
                write(step)
        write(3)


def flipped(direction, values, spacing=(0.5, 1.5), origin=(10.0, -4.0)):
    """Return an ITK image of vectors on a turned grid."""
    image = displacement_image(
        values, Grid(("y", "x"), values.shape[1:], spacing[::-1], origin[::-1])
    )
    image.SetDirection(itk.matrix_from_array(np.array(direction, float)))
    return image


@pytest.mark.parametrize(
    "direction", [[[-1, 0], [0, -1]], [[0, -1], [1, 0]], [[0.8, -0.6], [0.6, 0.8]]]
)
def test_turned_grids_keep_vectors_in_space(tmp_path, direction):
    values = np.random.default_rng(0).normal(size=(2, 6, 7)).astype(np.float32)
    image = flipped(direction, values)
    itk.imwrite(image, str(tmp_path / "turned.nrrd"))
    oblique = abs(direction[0][0]) == 0.8
    # Within the turned grid, and within the grid of what is read.
    index = itk.ContinuousIndex[itk.D, 2]()
    index[0], index[1] = 3.3, 2.4
    middle = np.array(list(image.TransformContinuousIndexToPhysicalPoint(index)))
    like = Grid(("y", "x"), (2, 2), (0.1, 0.1), tuple(middle[::-1].tolist()), None)
    if oblique:
        with pytest.raises(xdreg.InputError, match=r": like=\.\.\."):
            xdreg.open_transform(tmp_path / "turned.nrrd")
    field = xdreg.open_transform(
        tmp_path / "turned.nrrd",
        like=Grid(like.dims, like.shape, like.spacing, like.origin, "millimeter"),
    )
    transform = itk.DisplacementFieldTransform[itk.D, 2].New()
    transform.SetDisplacementField(doubled(image))
    expected = xdreg.from_itk_transform(transform, like)
    np.testing.assert_allclose(field.displacement, expected.displacement, atol=1e-5)


def doubled(image):
    double = itk.Image[itk.Vector[itk.D, 2], 2].New()
    double.CopyInformation(image)
    double.SetRegions(image.GetLargestPossibleRegion())
    double.Allocate()
    itk.array_view_from_image(double)[...] = itk.array_view_from_image(image)
    return double


def test_nifti_says_which_way_its_vectors_point(tmp_path):
    """The intent code 1006 is for vectors along NIfTI's axes, 1007 along ITK's."""
    values = np.ones((3, 3, 4, 5), np.float32) * np.reshape([1, 2, 3], (3, 1, 1, 1))
    grid = Grid(("z", "y", "x"), (3, 4, 5), (1.0, 1.0, 1.0), (0.0,) * 3, "millimeter")
    path = tmp_path / "warp.nii"
    make_field(values.astype(np.float32), grid).dreg.to_file(path)
    header = bytearray(path.read_bytes())
    assert int.from_bytes(header[68:70], "little") == 1007
    header[68:70] = (1006).to_bytes(2, "little")
    path.write_bytes(header)
    means = xdreg.open_transform(path).displacement.mean(("z", "y", "x"))
    np.testing.assert_allclose(means, [1.0, -2.0, -3.0])


def test_a_linear_transform_needs_to_be_told_where(tmp_path):
    transform = itk.AffineTransform[itk.D, 2].New()
    transform.SetMatrix(itk.matrix_from_array(np.array([[1.1, -0.2], [0.1, 0.9]])))
    transform.SetOffset([-4.0, 3.0])
    for name in ("a.tfm", "a.mat", "a.txt"):
        itk.transformwrite([transform], str(tmp_path / name))
        with pytest.raises(xdreg.InputError, match=r": like=\.\.\."):
            xdreg.open_transform(tmp_path / name)
        like = Grid(("y", "x"), (5, 6), (2.0, 1.0), (1.0, 7.0), "millimeter")
        field = xdreg.open_transform(tmp_path / name, like=like)
        expected = [[0.9, 0.1, 3.0], [-0.2, 1.1, -4.0], [0.0, 0.0, 1.0]]
        np.testing.assert_allclose(bridges.to_matrix(field), expected, atol=1e-5)


def test_a_composite_is_read_in_its_order(tmp_path):
    known = Known(2, 5.0)
    spline = itk.BSplineTransform[itk.D, 2, 3].New()
    spline.SetTransformDomainOrigin([-200.0, -200.0])
    spline.SetTransformDomainPhysicalDimensions([500.0, 500.0])
    spline.SetTransformDomainMeshSize([4, 4])
    count = spline.GetNumberOfParameters()
    numbers = itk.OptimizerParameters[itk.D](count)
    for i, value in enumerate(np.random.default_rng(0).normal(size=count)):
        numbers.SetElement(i, float(value))
    spline.SetParameters(numbers)
    both = itk.CompositeTransform[itk.D, 2].New()
    both.AddTransform(spline)
    both.AddTransform(known.field.dreg.to_itk_transform())
    itk.transformwrite([both], str(tmp_path / "both.h5"))
    field = xdreg.open_transform(tmp_path / "both.h5", units="micrometer")
    assert field_grid(field) == field_grid(known.field)
    expected = xdreg.from_itk_transform(both, field_grid(field))
    assert difference(field, expected) < 1e-3


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("ndim", [2, 3])
def test_itkwasm_warps_by_what_it_is_given(ndim, affine):
    from itkwasm import Image, Transform
    from itkwasm_downsample import resample_to_reference

    known = Known(ndim, 5.0)
    field = known.field
    entries = bridges.to_itkwasm(field, affine=affine)
    assert [type(entry) for entry in entries] == [Transform] * (1 + affine)
    target = moving_like(known)
    random = np.random.default_rng(0).random(target.shape).astype(np.float32)
    moving = target.copy(data=random)
    fixed = field.displacement[0].drop_vars("component")
    images = [
        Image(**itk.dict_from_image(one.dreg.to_itk_image())) for one in (moving, fixed)
    ]
    theirs = resample_to_reference(*images, transform=entries)
    ours = field.dreg.warp(moving, like=fixed)
    inside = (slice(2, -2),) * ndim
    np.testing.assert_allclose(
        np.asarray(theirs.data)[inside], ours.values[inside], atol=1e-3
    )


@pytest.mark.parametrize("affine", [False, True])
def test_itkwasm_s_transforms_come_back(affine):
    from itkwasm import Transform, TransformType

    field = Known(2, 5.0).field
    entries = bridges.to_itkwasm(field, affine=affine)
    again = bridges.from_itkwasm(entries, units="micrometer")
    assert difference(again, field) < 1e-4
    # As ITK-Wasm returns a composite, and in single precision.
    kind = TransformType("Composite", "float32", 2, 2)
    for entry in entries:
        entry.transformType.parametersValueType = "float32"
        entry.parameters = entry.parameters.astype(np.float32)
    listed = [Transform(kind), *entries]
    assert difference(bridges.from_itkwasm(listed, like=field), field) < 1e-4
    known_to_itk = itk.dict_from_transform(field.dreg.to_itk_transform())
    assert difference(bridges.from_itkwasm(known_to_itk, like=field), field) < 1e-5
    for wrong in ([{"name": "x"}], ["x"], [None]):
        with pytest.raises(xdreg.InputError, match="transformType"):
            bridges.from_itkwasm(wrong)
    with pytest.raises(xdreg.StoreError, match="holds no transform"):
        bridges.from_itkwasm([])


@pytest.mark.parametrize("affine", [False, True])
def test_simpleitk_takes_and_gives_the_same(affine):
    sitk = pytest.importorskip("SimpleITK")
    known = Known(3, 5.0)
    transform = bridges.to_simpleitk(known.field, affine=affine)
    points = points_of(known, 5)
    found = [transform.TransformPoint(p[::-1].tolist())[::-1] for p in points]
    expected = known.field.dreg.transform_points(points)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    again = bridges.from_simpleitk(transform, units="micrometer")
    assert difference(again, known.field) < 1e-4
    turn = sitk.Euler3DTransform((1.0, 2.0, 3.0), 0.1, 0.2, 0.3, (4.0, 5.0, 6.0))
    field = bridges.from_simpleitk(turn, like=known.field)
    matrix = bridges.to_matrix(field)
    there = turn.TransformPoint((7.0, 8.0, 9.0))[::-1]
    np.testing.assert_allclose(matrix[:3] @ [9.0, 8.0, 7.0, 1.0], there, atol=1e-3)


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("affine", [False, True])
def test_bigwarp_s_n5_goes_out_and_comes_back_in_blocks(tmp_path, ndim, affine):
    pytest.importorskip("tensorstore")
    known = Known(ndim, 8.0)
    inverse = known.field.dreg.inverse(moving_like(known), step=4).load()
    path = tmp_path / "field.n5"
    known.field.dreg.to_file(path, inverse=inverse, affine=affine)
    again = xdreg.open_transform(path)
    assert difference(again, known.field) < (1e-4 if affine else 1e-9)
    assert again.displacement.chunks is not None
    back = xdreg.open_transform(path, inverse=True)
    assert difference(back, inverse) == 0
    attributes = json.loads((path / "dfield" / "attributes.json").read_text())
    own = field_grid(known.field)
    assert attributes["spacing"] == list(own.spacing[::-1])
    assert attributes["offset"] == list(own.origin[::-1])
    assert attributes["dimensions"] == [ndim, *own.shape[::-1]]
    assert attributes["blockSize"][0] == ndim
    assert ("affine" in attributes) == affine
    with pytest.raises(xdreg.StoreError, match="overwrite"):
        known.field.dreg.to_file(path)
    known.field.dreg.to_file(path, overwrite=True)
    with pytest.raises(xdreg.StoreError, match="invdfield"):
        xdreg.open_transform(path, inverse=True)


def test_a_block_of_n5_as_its_specification_has_it(tmp_path):
    """Vectors fastest, x first, big-endian, after a header; by hand."""
    import gzip

    pytest.importorskip("tensorstore")
    values = np.arange(2 * 3 * 4, dtype=np.float32).reshape(2, 3, 4)
    grid = Grid(("y", "x"), (3, 4), (2.0, 0.5), (1.0, 7.0), "micrometer")
    make_field(values, grid).dreg.to_file(tmp_path / "a.n5")
    block = (tmp_path / "a.n5/dfield/0/0/0").read_bytes()
    header = np.frombuffer(block, ">u2", 2)
    assert header.tolist() == [0, 3]
    assert np.frombuffer(block, ">u4", 3, 4).tolist() == [2, 4, 3]
    numbers = np.frombuffer(gzip.decompress(block[16:]), ">f4").reshape(3, 4, 2)
    np.testing.assert_array_equal(numbers[..., 0], values[1])
    np.testing.assert_array_equal(numbers[..., 1], values[0])


def test_a_quantised_field_of_bigwarp_with_its_affine(tmp_path):
    ts = pytest.importorskip("tensorstore")
    values = np.random.default_rng(0).integers(-90, 90, (2, 4, 3)).astype(np.int16)
    for name, rows in (("dfield", TURN), ("invdfield", np.linalg.inv(TURN))):
        folder = tmp_path / "q.n5" / name
        store = ts.open(
            {
                "driver": "n5",
                "kvstore": {"driver": "file", "path": f"{folder}/"},
                "metadata": {
                    "dimensions": [2, 4, 3], "blockSize": [2, 2, 2],
                    "dataType": "int16", "compression": {"type": "raw"},
                },
            },
            create=True,
        ).result()  # fmt: skip
        store[...].write(values).result()
        document = folder / "attributes.json"
        xyz = rows[[1, 0]][:, [1, 0, 2]]
        more = {
            "spacing": [0.5, 2.0], "offset": [7.0, 1.0],
            "quantization_multiplier": 0.01, "affine": xyz.ravel().tolist(),
        }  # fmt: skip
        document.write_text(json.dumps(json.loads(document.read_text()) | more))
    grid = Grid(("y", "x"), (3, 4), (2.0, 0.5), (1.0, 7.0), "micrometer")
    bent = make_field((values.transpose(0, 2, 1)[::-1] * 0.01).astype("f4"), grid)
    field = xdreg.open_transform(tmp_path / "q.n5", units="micrometer")
    assert difference(field, compose(bent, TURN)) < 1e-4
    with pytest.raises(xdreg.InputError, match=r": like=\.\.\."):
        xdreg.open_transform(tmp_path / "q.n5", units="micrometer", inverse=True)
    back = xdreg.open_transform(
        tmp_path / "q.n5", units="micrometer", inverse=True, like=grid
    )
    assert difference(back, compose(np.linalg.inv(TURN), bent, like=grid)) < 1e-4


def test_an_affine_field_is_a_matrix_and_another_is_not():
    known = Known(3, 12.0, amplitude=0.0)
    matrix = bridges.to_matrix(known.field)
    np.testing.assert_allclose(matrix[:3, :3], known.linear, atol=1e-4)
    bent = Known(3, 12.0).field
    with pytest.raises(xdreg.InputError, match="the field bends"):
        bridges.to_matrix(bent)
    assert bridges.to_matrix(bent, tolerance=np.inf).shape == (4, 4)


def test_multiview_stitcher_s_parameters_push_the_moving_view():
    known = Known(3, 12.0, amplitude=0.0)
    params = bridges.to_multiview_stitcher(known.field)
    assert params.dims == ("x_in", "x_out")
    moving = np.append(known.forth(known.fixed.centre[None])[0], 1.0)
    np.testing.assert_allclose(
        (params.values @ moving)[:3], known.fixed.centre, atol=1e-3
    )
    again = bridges.from_multiview_stitcher(params, known.field)
    assert difference(again, known.field) < 1e-3
    with pytest.raises(xdreg.InputError, match="x_in"):
        bridges.from_multiview_stitcher(params.expand_dims(t=2), known.field)


def test_multiview_stitcher_names_axes_alike():
    utils = pytest.importorskip("multiview_stitcher.param_utils")
    known = Known(3, 12.0, amplitude=0.0)
    params = bridges.to_multiview_stitcher(known.field)
    xr.testing.assert_equal(utils.affine_to_xaffine(params.values), params)


def test_spatialdata_pushes_pixels_whose_centres_lie_at_a_half():
    pytest.importorskip("spatialdata")
    known = Known(2, 12.0, amplitude=0.0)
    moving = moving_like(known)
    affine = bridges.to_spatialdata(known.field, moving)
    index = np.array([4.0, 9.0])
    place = [float(moving[d][int(i)]) for d, i in zip("yx", index, strict=True)]
    matrix = affine.to_affine_matrix(("y", "x"), ("y", "x"))
    found = matrix @ [*(index + 0.5), 1.0]
    expected = known.back(np.array([place]))[0]
    np.testing.assert_allclose(found[:2], expected, atol=1e-3)
    again = bridges.from_spatialdata(affine, known.field, moving)
    assert difference(again, known.field) < 1e-3
    with pytest.raises(xdreg.InputError, match="name it: moving="):
        bridges.to_spatialdata(known.field)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("a.png", {}, "no suffix of a transform file"),
        ("a.mat", {}, "read, not written"),
        ("a.nrrd", {"affine": True}, "displacements only"),
        ("a.h5", {"inverse": True}, "holds one transform"),
        ("s3://bucket/a.h5", {}, "is a URL"),
    ],
)
def test_what_a_format_cannot_hold_is_refused(tmp_path, name, options, message):
    field = Known(2).field
    if options.get("inverse"):
        options = {"inverse": field}
    path = name if "://" in name else tmp_path / name
    with pytest.raises(xdreg.InputError, match=message):
        field.dreg.to_file(path, **options)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("none.h5", None, "does not exist"),
        ("a.tfm", "nothing", "cannot read"),
        ("a.nrrd", "nothing", "cannot read"),
        ("a.txt", "nothing", "cannot read"),
        ("a.txt", '(Transform "Odd")\n(FixedImageDimension 3)', "holds a Odd"),
        ("a.txt", '(Transform "Odd")\n(FixedImageDimension x)', "FixedImageDimension"),
        (
            "a.txt",
            "(Transform )\n(InitialTransformParameterFileName )\n"
            "(FixedImageDimension 3)",
            "transform without a name",
        ),
    ],
)
def test_what_cannot_be_read_is_said(tmp_path, name, text, message):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(xdreg.XdregError, match=message):
        xdreg.open_transform(tmp_path / name)


def test_an_image_is_no_field(tmp_path):
    itk.imwrite(
        itk.image_from_array(np.ones((4, 5), np.float32)), str(tmp_path / "i.mha")
    )
    with pytest.raises(xdreg.InputError, match="expected vectors of 2"):
        xdreg.open_transform(tmp_path / "i.mha")


def test_nothing_is_replaced_unless_asked_for(tmp_path):
    field = Known(2).field
    field.dreg.to_file(tmp_path / "a.nrrd")
    before = (tmp_path / "a.nrrd").read_bytes()
    with pytest.raises(xdreg.StoreError, match="overwrite"):
        compose(field, TURN).dreg.to_file(tmp_path / "a.nrrd")
    assert (tmp_path / "a.nrrd").read_bytes() == before
    compose(field, TURN).dreg.to_file(tmp_path / "a.nrrd", overwrite=True)
    assert (tmp_path / "a.nrrd").read_bytes() != before
    with pytest.raises(xdreg.StoreError, match="make it first"):
        field.dreg.to_file(tmp_path / "none" / "a.nrrd")


def test_a_change_of_unit_carries_all_geometry():
    known = Known(2)
    changed = in_units(known.field, "millimeter")
    assert fixed_grid(changed).spacing == tuple(s / 1e3 for s in known.fixed.spacing)
    back = in_units(changed, "micrometer")
    np.testing.assert_allclose(back.displacement, known.field.displacement, rtol=1e-6)
