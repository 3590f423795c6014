"""No metadata of a store is trusted: it is used, or refused with key and value."""

import copy
import json
import math
import pickle

import itk
import pytest

import xdreg
from tests.helpers.stores import Trap, axes, dataset, edited, multiscale, sample
from xdreg.cli import common as cli_common
from xdreg.cli import summary as cli_summary
from xdreg.fields.diagnostics import status_counts
from xdreg.fields.field import fixed_grid
from xdreg.stores import ome_checks

ODD = [
    *(None, True, -1, 0, 5, 1e400, math.nan, 10**400, "", "x", "../..", "a" * 10_000),
    *([], [[]], {}, {"a": 1}, [None, {}], [1e400, math.nan]),
]


def places(value, found=()):
    """Yield where every value of a document lies, as a path of keys."""
    yield found
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in items:
            yield from places(inner, (*found, key))


def replaced(document, place, value):
    result = copy.deepcopy(document)
    inner = result
    for key in place[:-1]:
        inner = inner[key]
    if value is KeyError:
        del inner[place[-1]]
    else:
        inner[place[-1]] = value
    return result


def documents(folder):
    names = ("zarr.json", ".zattrs", ".zgroup", ".zarray")
    return sorted(path for path in folder.rglob("*") if path.name in names)


def spoil(folder, opened, every):
    """Open a store with values of its metadata replaced by odd ones, in turn."""
    count = 0
    for path in documents(folder):
        text = path.read_text("utf-8")
        document = json.loads(text)
        for place in list(places(document))[1:]:
            for odd in (KeyError, *ODD):
                count += 1
                if count % every:
                    continue
                path.write_text(json.dumps(replaced(document, place, odd)))
                try:
                    opened(folder)
                except xdreg.XdregError as error:
                    assert str(error)
                except Exception as error:
                    error.add_note(f"{path.name}: {place} = {str(odd)[:60]}")
                    raise
        path.write_text(text)
    return count // every


@pytest.mark.parametrize("version", ["0.4", "0.5", "0.6"])
def test_odd_values_anywhere_in_an_image(tmp_path, version):
    image = sample(2, 2).isel(y=slice(4), x=slice(5)).expand_dims(t=2)
    xdreg.save(image, tmp_path / "image.zarr", version=version, levels=1)
    assert spoil(tmp_path / "image.zarr", xdreg.open_ome_zarr, every=5) > 250


def test_odd_values_anywhere_in_a_field(tmp_path):
    image = sample(2).isel(y=slice(32), x=slice(32))
    stage = xdreg.LocalCorrelation(level=0, iterations=1, metric="lncc")
    field = image.dreg.register(image, stages=[stage], progress=False)
    xdreg.save(field, tmp_path / "field.zarr")

    def opened(path):
        field = xdreg.open_field(path)
        fixed_grid(field)
        status_counts(field)

    assert spoil(tmp_path / "field.zarr", opened, every=37) > 200


def in_unit(unit):
    return multiscale(axes=[{"name": d, "type": "space", "unit": unit} for d in "yx"])


def array_document(path, **changes):
    document = path / "0" / "zarr.json"
    content = json.loads(document.read_text("utf-8"))
    document.write_text(json.dumps(content | changes))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (dataset(path="/etc"), "'/etc' leaves the store"),
        (axes(("y", "space"), ("y", "space")), "the axes"),
        (multiscale(axes=[{"type": "space"}, {"name": "x"}]), "each to have a 'name'"),
        (
            in_unit("furlong"),
            "'y' has the unit 'furlong'",
        ),
        (
            in_unit({}),
            "'y' has the unit {}",
        ),
        (multiscale(datasets=[{"path": "0"}] * 5000), "'datasets' lists 5000 levels"),
        (
            lambda ome: ome["multiscales"][0]["datasets"][1].update(
                coordinateTransformations=[{"type": "scale", "scale": [1.366, 1.366]}]
            ),
            "'1' spans .* contradict",
        ),
        *(
            (
                dataset(coordinateTransformations=[{"type": "scale", "scale": scale}]),
                "the level '0' has a",
            )
            for scale in (
                [-1.0, 1.0],
                [0.0, 1.0],
                [math.nan, 1.0],
                [math.inf, 1.0],
                [10**400, 1.0],
                ["1", "1"],
                [True, 1.0],
                "11",
            )
        ),
        (dataset(coordinateTransformations=[]), "no coordinateTransformations"),
        (dataset(coordinateTransformations="scale"), "is 'scale'; expected a list"),
    ],
)
def test_what_is_refused_is_named_with_its_value(tmp_path, change, text):
    with pytest.raises(xdreg.StoreError, match=text):
        xdreg.open_ome_zarr(edited(tmp_path / "image.zarr", change))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"shape": [10**18, 93]}, r"shape \(1000000000000000000, 93\)"),
        ({"shape": [10**400, 93]}, "over 1e18 chunks"),
        ({"data_type": "string"}, "missing or damaged|data type"),
        (
            {
                "chunk_grid": {
                    "name": "regular",
                    "configuration": {"chunk_shape": [10**6, 10**6]},
                }
            },
            "bytes each",
        ),
    ],
)
def test_absurd_arrays_are_refused_before_they_are_read(tmp_path, changes, text):
    xdreg.save(sample(2), tmp_path / "image.zarr")
    array_document(tmp_path / "image.zarr", **changes)
    with pytest.raises(xdreg.StoreError, match=text):
        xdreg.open_ome_zarr(tmp_path / "image.zarr")


@pytest.mark.parametrize("change", ["filter", "compressor", "dtype"])
def test_nothing_is_unpickled(tmp_path, change):
    xdreg.save(sample(2), tmp_path / "image.zarr", version="0.4", levels=1)
    folder = tmp_path / "image.zarr" / "0"
    document = json.loads((folder / ".zarray").read_text("utf-8"))
    pickled = {"id": "pickle", "protocol": 5}
    document |= {
        "filter": {"compressor": None, "filters": [pickled]},
        "compressor": {"compressor": pickled, "filters": None},
        "dtype": {"dtype": "|O", "filters": [pickled], "compressor": None},
    }[change]
    (folder / ".zarray").write_text(json.dumps(document))
    for chunk in folder.glob("**/[0-9]*"):
        if chunk.is_file():
            chunk.write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    with pytest.raises(xdreg.StoreError):
        xdreg.open_ome_zarr(tmp_path / "image.zarr")
    assert not (tmp_path / "sprung").exists()


def test_the_trap_would_spring(tmp_path):
    pickle.loads(pickle.dumps(Trap(tmp_path / "sprung"))).close()
    assert (tmp_path / "sprung").exists()


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_huge_documents_are_not_parsed(tmp_path, version, monkeypatch):
    xdreg.save(sample(2), tmp_path / "image.zarr", version=version)
    monkeypatch.setattr(ome_checks, "MOST_BYTES", 500)
    with pytest.raises(xdreg.StoreError, match="bytes; expected at most 500"):
        xdreg.open_ome_zarr(tmp_path / "image.zarr")


def test_deep_documents_are_refused(tmp_path):
    (tmp_path / "deep.zarr").mkdir()
    deep = '{"attributes":' + "[" * 100_000 + "]" * 100_000 + "}"
    (tmp_path / "deep.zarr" / "zarr.json").write_text(deep)
    with pytest.raises(xdreg.StoreError):
        xdreg.open_ome_zarr(tmp_path / "deep.zarr")


def test_html_and_the_terminal_show_names_as_they_are(tmp_path, capsys):
    evil = "<script>alert(1)</script>[red]"
    change = multiscale(name=evil)
    tree = xdreg.open_ome_zarr(edited(tmp_path / "image.zarr", change))
    image = tree["scale0/image"].assign_coords(c=evil)
    for shown in (tree, image, image.to_dataset(name="image")):
        assert "<script>alert" not in shown._repr_html_()
    field = xdreg.from_itk_transform(
        itk.TranslationTransform[itk.D, 2].New(), sample(2)
    ).assign_attrs(metric=evil)
    field["block_status"] = (("block_y", "block_x"), [[0]])
    field["block_similarity_before"] = field["block_similarity_after"] = (
        field["block_status"] * 0.0
    )
    lines = cli_summary.summary_lines(cli_summary.field_summary(field))
    cli_common.answer({}, lines, as_json=False)
    assert evil in capsys.readouterr().out
