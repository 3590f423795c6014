"""TIFFs that tifffile wrote, and damaged ones."""

import numpy as np
import pytest
import tifffile

import xdreg
from xdreg.coordinates import grid_of
from xdreg.stores.identity import identity_of
from xdreg.stores.readers import image_reader, source_of

VALUES = np.random.default_rng(0).integers(0, 4000, (2, 3, 4, 32, 40)).astype("u2")
SIZES = {
    "PhysicalSizeX": 0.5,
    "PhysicalSizeY": 500.0,
    "PhysicalSizeYUnit": "nm",
    "PhysicalSizeZ": 2.0,
}


def in_ome(axes, **more):
    return {"axes": axes, **SIZES, **more}


def test_ome_tiff(tmp_path):
    path = tmp_path / "a.ome.tif"
    names = {"Name": ["DAPI", "GFP", "CD3"]}
    metadata = in_ome("TCZYX", Channel=names, TimeIncrement=3.0)
    tifffile.imwrite(path, VALUES, metadata=metadata)
    image = xdreg.open_image(path)
    assert image.dims == ("t", "c", "z", "y", "x")
    grid = grid_of(image)
    assert (grid.spacing, grid.units) == ((2.0, 0.5, 0.5), "micrometer")
    assert list(image.c.values) == names["Name"]
    assert image.t.values.tolist() == [0, 3]
    assert image.chunks is not None
    np.testing.assert_array_equal(image, VALUES)
    reader = image_reader(image, select={"t": 1, "c": 2})
    window = [slice(1, 3), slice(5, 30), slice(0, 9)]
    np.testing.assert_array_equal(reader.read(window), VALUES[1, 2, 1:3, 5:30, :9])


def test_imagej_and_its_order_of_axes(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path,
        VALUES.transpose(0, 2, 1, 3, 4),
        imagej=True,
        resolution=(2.0, 4.0),
        metadata={"axes": "TZCYX", "spacing": 2.0, "unit": "um"},
    )
    image = xdreg.open_image(path)
    assert grid_of(image).spacing == (2.0, 0.25, 0.5)
    np.testing.assert_array_equal(image, VALUES)
    before = identity_of(source_of(image))
    assert identity_of(source_of(xdreg.open_image(path))) == before
    tifffile.imwrite(path, VALUES[0, 0, 0], resolution=(1, 1), resolutionunit=3)
    assert identity_of(source_of(image)) != before


@pytest.mark.parametrize(
    ("resolution", "unit", "expected"),
    [((20000, 10000), "CENTIMETER", (1.0, 0.5)), ((50800, 50800), "INCH", (0.5, 0.5))],
)
def test_resolution_tags(tmp_path, resolution, unit, expected):
    path, values = tmp_path / "a.tif", VALUES[0, 0, 0]
    tifffile.imwrite(path, values, resolution=resolution, resolutionunit=unit)
    grid = grid_of(xdreg.open_image(path))
    np.testing.assert_allclose(grid.spacing, expected)
    assert grid.units == "micrometer"


def test_what_a_file_does_not_say_is_asked_for(tmp_path):
    plain, screen, stack = (tmp_path / f"{n}.tif" for n in ("plain", "dpi", "stack"))
    tifffile.imwrite(plain, VALUES[0, 0, 0], tile=(16, 16), compression="zlib")
    with pytest.raises(xdreg.InputError, match="y, x; give spacing and units"):
        xdreg.open_image(plain)
    tifffile.imwrite(screen, VALUES[0, 0, 0], resolution=(72, 72), resolutionunit=2)
    with pytest.raises(xdreg.InputError, match="spacing"):
        xdreg.open_image(screen)
    tifffile.imwrite(stack, VALUES[0, 0, :3], photometric="minisblack", metadata=None)
    with pytest.raises(xdreg.InputError, match="axes"):
        xdreg.open_image(stack)
    image = xdreg.open_image(stack, spacing=(2, 1, 1), units="um", axes="zyx")
    assert grid_of(image).spacing == (2.0, 1.0, 1.0)
    assert "source" not in image.attrs
    image = xdreg.open_image(plain, spacing=0.5, units="um")
    assert image.dtype == np.uint16
    np.testing.assert_array_equal(image, VALUES[0, 0, 0])


def test_a_pyramid_is_a_tree_on_one_region(tmp_path):
    path = tmp_path / "a.ome.tif"
    with tifffile.TiffWriter(path) as file:
        finest = {"subifds": 1, "metadata": in_ome("ZYX")}
        file.write(VALUES[0, 0], tile=(16, 16), **finest)
        file.write(VALUES[0, 0, :, ::2, ::2], subfiletype=1, tile=(16, 16))
    levels = xdreg.image_levels(xdreg.open_image(path), "image")
    first, second = map(grid_of, levels)
    assert second.spacing == (2.0, 1.0, 1.0)
    np.testing.assert_allclose(first.bounds, second.bounds)


def test_rgb_and_several_images(tmp_path):
    colour = np.moveaxis(VALUES[0, :, 0], 0, -1).astype("u1").copy()
    options = {"resolution": (1e4, 1e4), "resolutionunit": 3, "photometric": "rgb"}
    tifffile.imwrite(tmp_path / "rgb.tif", colour, **options)
    image = xdreg.open_image(tmp_path / "rgb.tif")
    assert image.dims == ("c", "y", "x")
    np.testing.assert_array_equal(image.transpose("y", "x", "c"), colour)
    path = tmp_path / "two.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as file:
        file.write(VALUES[0, 0], metadata=in_ome("ZYX"))
        file.write(VALUES[0, 1, 0], metadata=in_ome("YX"))
    with pytest.raises(xdreg.InputError, match=r"2 images.*series=0"):
        xdreg.open_image(path)
    np.testing.assert_array_equal(xdreg.open_image(path, series=1), VALUES[0, 1, 0])


def multi_file(folder):
    """Write an OME-TIFF of two files, a channel each; return the first."""
    paths = [folder / "c0.ome.tif", folder / "c1.ome.tif"]
    parts = "".join(
        f'<TiffData FirstC="{i}" IFD="0" PlaneCount="1"><UUID FileName="{p.name}">'
        f"urn:uuid:0000000{i}</UUID></TiffData>"
        for i, p in enumerate(paths)
    )
    for i, path in enumerate(paths):
        text = (
            '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" '
            f'UUID="urn:uuid:0000000{i}"><Image ID="Image:0"><Pixels ID="Pixels:0" '
            'DimensionOrder="XYZCT" Type="uint16" SizeX="40" SizeY="32" SizeZ="1" '
            'SizeC="2" SizeT="1" PhysicalSizeX="0.5" PhysicalSizeY="0.5">'
            f"{parts}</Pixels></Image></OME>"
        )
        tifffile.imwrite(path, VALUES[0, i, 0], description=text, metadata=None)
    return paths


def test_an_image_of_several_files(tmp_path):
    paths = multi_file(tmp_path)
    image = xdreg.open_image(paths[0])
    np.testing.assert_array_equal(image, VALUES[0, :2, 0])
    assert grid_of(image).spacing == (0.5, 0.5)
    paths[1].unlink()
    with pytest.raises(xdreg.StoreError, match=r"c1.ome.tif'.*missing"):
        xdreg.open_image(paths[0])


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def loop(path):
    """Let the first directory name itself as the next."""
    data = bytearray(path.read_bytes())
    place = int.from_bytes(data[4:8], "little")
    count = int.from_bytes(data[place : place + 2], "little")
    data[place + 2 + 12 * count :][:4] = data[4:8]
    end = place + 2 + 12 * count
    data[end : end + 4] = data[4:8]
    path.write_bytes(data)


@pytest.mark.parametrize(
    "change",
    [
        cut,
        lambda path: edit(path, b'SizeZ="4"', b'SizeZ="9"'),
        lambda path: edit(path, b'SizeZ="4"', b'SizeZ="2"'),
        lambda path: edit(path, b'SizeX="40"', b'SizeX="44"'),
        lambda path: edit(path, b'PhysicalSizeX="0.5"', b'PhysicalSizeX="-.5"'),
        lambda path: edit(path, b"</Pixels>", b"</Pixel >"),
    ],
)
def test_damaged_files_are_refused(tmp_path, change):
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, VALUES[0, 0], metadata=in_ome("ZYX"))
    change(path)
    with pytest.raises(xdreg.StoreError):
        xdreg.open_image(path)


def test_a_loop_of_directories_ends(tmp_path):
    path = tmp_path / "a.tif"
    options = {"resolution": (1e4, 1e4), "resolutionunit": 3, "metadata": None}
    tifffile.imwrite(path, VALUES[0, 0, 0], **options)
    loop(path)
    try:
        image = xdreg.open_image(path)
    except xdreg.XdregError:
        return
    np.testing.assert_array_equal(image, VALUES[0, 0, 0])


def edit(path, old, new):
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new))


def test_a_registration_reads_its_tiff_lazily(tmp_path):
    pair = xdreg.datasets.phantom_pair((96, 112), amplitude=2.0)
    for name, image in (("fixed", pair.fixed), ("moving", pair.moving)):
        grid = grid_of(image)
        sizes = dict(zip(("PhysicalSizeY", "PhysicalSizeX"), grid.spacing, strict=True))
        options = {"tile": (32, 32), "metadata": {"axes": "YX", **sizes}}
        tifffile.imwrite(tmp_path / f"{name}.ome.tif", image.to_numpy(), **options)
    files = [xdreg.open_image(tmp_path / f"{n}.ome.tif") for n in ("fixed", "moving")]
    field = xdreg.register(*files, stages=[xdreg.Translation()], progress=False)
    own = [
        image.drop_vars(("y", "x")).assign_coords(file.coords).compute()
        for image, file in zip((pair.fixed, pair.moving), files, strict=True)
    ]
    same = xdreg.register(*own, stages=[xdreg.Translation()], progress=False)
    np.testing.assert_array_equal(field.displacement, same.displacement)
