"""OME-Zarr metadata: how transformations compose, and what is refused."""

import pytest
import zarr

import xdreg
from tests.helpers.servers import serving
from tests.helpers.stores import axes, dataset, edited, multiscale, sample
from xdreg.coordinates import grid_of
from xdreg.stores import retrying


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_transformations_of_the_multiscale_come_after_the_levels(tmp_path, version):
    steps = [
        {"type": "scale", "scale": [10.0, 2.0]},
        {"type": "translation", "translation": [0.0, 5.0]},
    ]
    change = multiscale(coordinateTransformations=steps)
    tree = xdreg.open_ome_zarr(edited(tmp_path / "image.zarr", change, version))
    grid = grid_of(tree["scale0/image"])
    assert grid.spacing == (1.366 * 10.0, 1.366 * 2.0)
    assert grid.origin == (3.3 * 10.0, 0.1 * 2.0 + 5.0)


def test_further_coordinate_systems_change_nothing(tmp_path):
    world = [{"name": d, "type": "space", "unit": "meter"} for d in "yx"]

    def change(ome):
        image = ome["multiscales"][0]
        image["coordinateSystems"].insert(0, {"name": "world", "axes": world})
        image["coordinateTransformations"] = [
            {
                "type": "scale",
                "scale": [100.0, 100.0],
                "input": {"name": "intrinsic"},
                "output": {"name": "world"},
                "name": "to the world",
            }
        ]

    path = edited(tmp_path / "image.zarr", change, "0.6")
    assert grid_of(xdreg.open_ome_zarr(path, level=0)) == grid_of(sample(2))


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize(
    "steps",
    [
        [{"type": "affine", "affine": [[1, 0.5, 0], [0, 1, 0]]}],
        [{"type": "rotation", "rotation": [[0, 1], [1, 0]]}],
        [{"type": "scale", "path": "elsewhere"}],
        [{"type": "scale", "scale": [1.0]}],
        [{"type": "scale", "scale": [0.0, 1.0]}],
        [],
    ],
)
def test_other_transformations_are_no_identity(tmp_path, version, steps):
    change = dataset(coordinateTransformations=steps)
    with pytest.raises(xdreg.StoreError, match="the level '0' has"):
        xdreg.open_ome_zarr(edited(tmp_path / "image.zarr", change, version))


def test_an_affine_in_a_sequence_is_refused(tmp_path):
    def change(ome):
        step = ome["multiscales"][0]["datasets"][0]["coordinateTransformations"][0]
        step["transformations"] = [{"type": "affine", "affine": [[1, 0, 0], [0, 1, 0]]}]

    with pytest.raises(xdreg.StoreError, match="affine"):
        xdreg.open_ome_zarr(edited(tmp_path / "image.zarr", change, "0.6"))


def test_what_is_no_image_is_refused(tmp_path):
    with pytest.raises(xdreg.StoreError, match="does not exist"):
        xdreg.open_ome_zarr(tmp_path / "missing.zarr")
    (tmp_path / "folder").mkdir()
    with pytest.raises(xdreg.StoreError, match="not a Zarr store"):
        xdreg.open_ome_zarr(tmp_path / "folder")
    zarr.open_group(tmp_path / "plain.zarr", mode="w")
    with pytest.raises(xdreg.StoreError, match="multiscales"):
        xdreg.open_ome_zarr(tmp_path / "plain.zarr")
    zarr.create_array(tmp_path / "bare.zarr", shape=(3, 3), dtype="u1")
    with pytest.raises(xdreg.StoreError, match="bare Zarr array"):
        xdreg.open_ome_zarr(tmp_path / "bare.zarr")
    xdreg.save(sample(2), tmp_path / "image.zarr")
    with pytest.raises(xdreg.InputError, match="levels 0 to"):
        xdreg.open_ome_zarr(tmp_path / "image.zarr", level=7)
    with pytest.raises(xdreg.StoreError, match="no displacement field"):
        xdreg.open_field(tmp_path / "image.zarr")


@pytest.mark.parametrize(
    "path", ["../other.zarr/0", "/etc", "..", "a/../../b", "a\\..\\b", "", 5]
)
def test_a_dataset_path_may_not_leave_the_store(tmp_path, path):
    with pytest.raises(xdreg.StoreError, match="leaves the store"):
        xdreg.open_ome_zarr(edited(tmp_path / "image.zarr", dataset(path=path)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dataset(path="nothing"), "'nothing' that is missing"),
        (dataset(path="0/.."), "leaves the store"),
        (multiscale(datasets=[]), "without datasets"),
        (multiscale(axes=[]), "no axes"),
        (multiscale(axes=[{"name": "y"}, {"type": "space"}]), "of type 'space'"),
        (axes(("y", "channel"), ("x", "space")), "of type 'space'"),
        (axes(("c", "channel"), ("x", "space")), "of type 'space'"),
        (axes(("Y", "space"), ("y", "space")), "in any order"),
        (axes(("z", "space"), ("y", "space"), ("x", "space")), "other ranks"),
        (lambda ome: ome.update(multiscales="text"), "without datasets"),
        (lambda ome: ome.update(version="9.9"), "9.9"),
    ],
)
def test_damaged_metadata_names_its_culprit(tmp_path, change, message):
    with pytest.raises(xdreg.StoreError, match=message):
        xdreg.open_ome_zarr(edited(tmp_path / "image.zarr", change))


@pytest.mark.parametrize(
    ("ome", "message"),
    [
        ({"plate": {"wells": [{"path": "B/2"}]}}, "plate.*'B/2/0'"),
        ({"well": {"images": [{"path": "3"}]}}, r"well.*\['3'\]"),
        ({"labels": ["cells"]}, r"labels.*\['cells'\]"),
        ({"bioformats2raw.layout": 3}, "series.*'0'"),
        (
            {"scene": {"coordinateTransformations": [{"input": {"path": "brain"}}]}},
            r"scene.*\['brain'\]",
        ),
    ],
)
def test_another_kind_of_store_says_what_to_open(tmp_path, ome, message):
    zarr.open_group(
        tmp_path / "other.zarr", mode="w", attributes={"ome": {"version": "0.5"} | ome}
    )
    with pytest.raises(xdreg.StoreError, match=message):
        xdreg.open_ome_zarr(tmp_path / "other.zarr")


def test_what_cannot_be_read_is_a_store_error(tmp_path):
    (tmp_path / "broken.zarr").mkdir()
    (tmp_path / "broken.zarr" / "zarr.json").write_text("{not json")
    with pytest.raises(xdreg.StoreError, match="JSONDecodeError"):
        xdreg.open_ome_zarr(tmp_path / "broken.zarr")
    with pytest.raises(xdreg.StoreError, match="Protocol not known"):
        xdreg.open_ome_zarr("unheard-of://image.zarr")


@pytest.mark.parametrize("answers", [[500, 503], ["cut"]])
def test_metadata_is_asked_for_again(tmp_path, answers, monkeypatch):
    pytest.importorskip("aiohttp")
    monkeypatch.setattr(retrying, "FIRST_WAIT", 0.01)
    xdreg.save(sample(2), tmp_path / "fixed.zarr", levels=1)
    with serving(tmp_path) as (url, faults):
        faults.answers = {"zarr.json": answers}
        xdreg.open_ome_zarr(f"{url}/fixed.zarr")
        faults.answers = {"zarr.json": 500}
        with pytest.raises(xdreg.StoreError, match="500"):
            xdreg.open_ome_zarr(f"{url}/fixed.zarr")
