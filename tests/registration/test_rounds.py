"""Several moving images registered to one fixed image."""

import json

import dask
import numpy as np
import pytest
import xarray as xr
import zarr

import xdreg
from tests.helpers.pairs import noise
from tests.helpers.runs import bits
from xdreg.fields import warp_to
from xdreg.stores.channels import with_channels

STAGES = [
    xdreg.LocalCorrelation(level=n, iterations=2, metric="lncc", search=False)
    for n in (1, 0)
]
OPTIONS = {"stages": STAGES, "initial": np.eye(3), "progress": False}


@pytest.fixture(scope="module")
def images():
    """Return a fixed image without levels, and three moving ones."""
    pairs = [xdreg.datasets.phantom_pair((72, 90), amplitude=a) for a in (1.0, 2.0)]
    moving = [pair.moving.compute() for pair in pairs]
    return pairs[0].fixed.compute(), [*moving, moving[0] // 2]


def channels(*images, names, colours=("0000FF", "00FF00")):
    """Return images as the channels of one, with colours and windows."""
    image = xr.concat(images, "c").drop_vars("c", errors="ignore")
    for dim in ("y", "x"):
        image[dim].attrs = images[0][dim].attrs
    window = {"min": 0, "max": 60000, "start": 5, "end": 50000}
    pairs = zip(names, colours, strict=False)
    return with_channels(
        image, [{"label": n, "color": c, "window": window} for n, c in pairs]
    )


def names_in(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_rounds_have_the_fields_of_single_runs_and_share_the_fixed_image(
    images, tmp_path
):
    fixed, moving = images
    rounds = dict(zip(("r2", "r 3/b", "r4"), moving, strict=True))
    options = OPTIONS | {"fixed_mask": "auto"}
    found = fixed.dreg.register_rounds(rounds, workdir=tmp_path, **options)
    assert list(found) == list(rounds)
    for name, image in rounds.items():
        assert bits(found[name]) == bits(fixed.dreg.register(image, **options))
    made = names_in(tmp_path)
    assert {"fixed_levels/1.zarr", "fixed_foreground.zarr"} <= made
    assert [name for name in made if "fixed_" in name and "rounds" in name] == []
    assert (tmp_path / "rounds" / "r 3%2Fb" / "stage_01" / "field").is_dir()
    table = found.table
    assert list(table.index) == list(rounds)
    assert (table.similarity_after > table.similarity_before).all()


def test_a_stopped_call_is_resumed_and_may_have_more_rounds(images, tmp_path):
    fixed, moving = images

    class Enough(Exception):
        pass

    def until_r3(advance):
        seen.append(advance.stage)
        if advance.stage.startswith("r3"):
            raise Enough

    seen, options = [], OPTIONS | {"workdir": tmp_path}
    rounds = {"r2": moving[0], "r3": moving[1]}
    with pytest.raises(Enough):
        xdreg.register_rounds(fixed, rounds, **options | {"progress": until_r3})
    records = tmp_path / "rounds" / "r2" / "stage_00" / "records"
    written_then = {p.name: p.stat().st_mtime_ns for p in records.iterdir()}
    found = xdreg.register_rounds(fixed, rounds | {"r4": moving[2]}, **options)
    assert {p.name: p.stat().st_mtime_ns for p in records.iterdir()} == written_then
    assert bits(found["r3"]) == bits(fixed.dreg.register(moving[1], **OPTIONS))
    assert len(found) == 3
    with pytest.raises(xdreg.InputError, match=r"another registration.*fresh=True"):
        xdreg.register_rounds(fixed + 1, rounds, **options)
    again = xdreg.register_rounds(fixed + 1, rounds, fresh=True, **options)
    alone = (fixed + 1).dreg.register(moving[0], **OPTIONS)
    assert bits(again["r2"]) == bits(alone)


def test_a_round_that_fails_is_reported_and_the_others_are_done(images, tmp_path):
    fixed, moving = images
    empty = xr.zeros_like(fixed)
    with pytest.warns(UserWarning, match="the round bad failed.*same value everywhere"):
        found = xdreg.register_rounds(
            fixed, {"bad": empty, "r3": moving[1]}, workdir=tmp_path, **OPTIONS
        )
    assert list(found) == ["r3"]
    assert "same value" in found.table.reasons["bad"]
    assert found.table.verdict["bad"] == "failed"
    assert isinstance(found.failures["bad"], xdreg.InputError)
    with pytest.raises(KeyError, match="the round bad failed"):
        found["bad"]
    assert "bad" in repr(found)
    assert "<table" in found._repr_html_()
    found.warp_to(tmp_path / "aligned.ome.zarr")
    aligned = xdreg.open_ome_zarr(tmp_path / "aligned.ome.zarr", level=0)
    assert aligned.c.values.tolist() == ["fixed", "r3"]
    with pytest.raises(xdreg.MethodError, match=r"no round .*b: moving holds one"):
        xdreg.register_rounds(fixed, {"a": empty, "b": empty}, **OPTIONS)
    # What all rounds lack is no failure of theirs.
    with pytest.raises(xdreg.InputError, match=r"^fixed holds one and the same"):
        xdreg.register_rounds(empty, {"a": fixed}, **OPTIONS)


def test_a_round_that_cannot_be_read_fails_alone(images, tmp_path):
    fixed, moving = images
    path = tmp_path / "r2.ome.zarr"
    xdreg.save(moving[0], path)
    stored = xdreg.open_ome_zarr(path)
    for chunk in path.rglob("c/*/*"):
        if chunk.is_file():
            chunk.write_bytes(b"no chunk")
    with pytest.warns(UserWarning):
        found = xdreg.register_rounds(fixed, {"r2": stored, "r3": moving[1]}, **OPTIONS)
    assert list(found.failures) == ["r2"]
    assert bits(found["r3"]) == bits(fixed.dreg.register(moving[1], **OPTIONS))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda r: {}, "map names to moving images.*got none"),
        (lambda r: list(r.values()), "map names to moving images.*got list"),
        (lambda r: r["r2"].to_dataset(name="image"), "got Dataset"),
        (lambda r: {2: r["r2"]}, "named by text"),
        (lambda r: {"": r["r2"]}, "named by text"),
        (lambda r: {"x" * 100: r["r2"]}, "up to 64 characters"),
        (lambda r: {"fixed": r["r2"]}, "'fixed' names no round"),
        (lambda r: {"..": r["r2"]}, "names no round"),
        (lambda r: r | {"r3": "r3.ome.zarr"}, "round 'r3' must be a DataArray"),
        (lambda r: r | {"r3": noise((9, 72, 90))}, "round 'r3': fixed has 2"),
        (
            lambda r: r | {"r3": noise((72, 90), units=None)},
            "round 'r3': .*units",
        ),
        (
            lambda r: r | {"r3": r["r2"].expand_dims(c=["A", "B"])},
            r"round 'r3' has 2 channels.*moving_channel=\{'r3': 0\}",
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_runs(images, change, words):
    fixed, moving = images
    rounds = change({"r2": moving[0]})
    with pytest.raises(xdreg.InputError, match=words):
        xdreg.register_rounds(fixed, rounds, stages=[xdreg.Custom(method=print)])


def test_a_round_without_the_channel_names_its_own(images):
    fixed, moving = images
    one = channels(fixed, fixed // 3, names=("DAPI", "GFP"))
    two = channels(moving[0], fixed, names=("GFP", "Hoechst"))
    rounds = {"r2": channels(fixed, moving[1], names=("GFP", "DAPI")), "r3": two}
    with pytest.raises(xdreg.InputError, match=r"round 'r3' has no channel 'DAPI'.*"):
        xdreg.register_rounds(one, rounds, channel="DAPI", **OPTIONS)
    with pytest.raises(xdreg.InputError, match="names the round 'r9'"):
        xdreg.register_rounds(one, rounds, moving_channel={"r9": 0}, **OPTIONS)
    found = xdreg.register_rounds(
        one, rounds, channel="DAPI", moving_channel={"r3": "GFP"}, **OPTIONS
    )
    assert bits(found["r2"]) == bits(fixed.dreg.register(moving[1], **OPTIONS))
    assert bits(found["r3"]) == bits(fixed.dreg.register(moving[0], **OPTIONS))


def test_starts_and_masks_may_differ_by_round(images):
    fixed, moving = images
    start = np.eye(3)
    start[0, 2] = 1.0
    part = xr.ones_like(fixed).where(fixed.x < 60, 0)
    options = OPTIONS | {"initial": {"r2": start, "r3": np.eye(3)}}
    found = xdreg.register_rounds(
        fixed,
        {"r2": moving[0], "r3": moving[0]},
        moving_mask={"r3": part},
        **options,
    )
    alone = [
        fixed.dreg.register(moving[0], **OPTIONS | one)
        for one in ({"initial": start}, {"moving_mask": part})
    ]
    for field, name in zip(alone, found, strict=True):
        assert bits(found[name]) == bits(field)


def test_units_of_rounds_are_converted(images):
    fixed, moving = images
    other = moving[0].assign_coords({d: moving[0][d] / 1000 for d in ("y", "x")})
    for dim in ("y", "x"):
        other[dim].attrs["units"] = "millimeter"
    found = xdreg.register_rounds(fixed, {"r2": moving[0], "mm": other}, **OPTIONS)
    np.testing.assert_allclose(
        found["mm"].displacement, found["r2"].displacement, atol=1e-3
    )


def test_aligned_has_all_channels_on_the_fixed_grid(images, tmp_path):
    fixed, moving = images
    one = channels(fixed, names=("DAPI",))
    small = channels(moving[0] // 256, moving[1] // 256, names=("DAPI", "GFP"))
    rounds = {"r2": small.astype("uint8"), "r3": moving[2]}
    found = xdreg.register_rounds(one, rounds, channel=0, **OPTIONS)
    path = tmp_path / "aligned.ome.zarr"
    found.warp_to(path, chunks=32)
    aligned = xdreg.open_ome_zarr(path, level=0)
    assert aligned.c.values.tolist() == ["fixed:DAPI", "r2:DAPI", "r2:GFP", "r3"]
    assert aligned.dtype == np.uint16
    np.testing.assert_array_equal(aligned[0], fixed)
    np.testing.assert_array_equal(aligned[1:3], found["r2"].dreg.warp(rounds["r2"]))
    np.testing.assert_array_equal(aligned[3], found["r3"].dreg.warp(moving[2]))
    for dim in ("y", "x"):
        xr.testing.assert_allclose(
            aligned[dim].drop_vars("c", errors="ignore"), fixed[dim]
        )
    shown = [json.loads(text) for text in aligned.omero.values]
    assert [entry["color"] for entry in shown[:3]] == ["0000FF", "0000FF", "00FF00"]
    assert shown[1]["window"]["end"] == 50000
    assert len(xdreg.open_ome_zarr(path).children) == 2
    with pytest.raises(xdreg.StoreError, match=r"exists.*overwrite=True"):
        found.warp_to(path)
    found.warp_to(path, overwrite=True, order=3, fill_value=7)


def test_aligned_has_the_labels_of_all_images(images, tmp_path):
    fixed, moving = images
    rounds = {"r2": moving[0], "r2/b": moving[1]}
    cells, look = {}, {"colors": [{"label-value": 3, "rgba": [255, 0, 0, 255]}]}
    for name, image in {"fixed": fixed, **rounds}.items():
        path = tmp_path / f"{name.replace('/', '-')}.ome.zarr"
        xdreg.save(image, path)
        cells[name] = (image > image.mean()).astype("uint16") * 3
        xdreg.save(cells[name], path / "labels" / "cells", labels=True)
        group = zarr.open_group(path / "labels", zarr_format=3)
        group.attrs["ome"] = {"labels": ["cells"]}
        group["cells"].attrs["ome"] = group["cells"].attrs["ome"] | {
            "image-label": look
        }
    stored = {
        name: xdreg.open_ome_zarr(tmp_path / f"{name.replace('/', '-')}.ome.zarr")
        for name in cells
    }
    opened = {name: stored[name] for name in rounds}
    found = xdreg.register_rounds(stored["fixed"], opened, **OPTIONS)
    path = tmp_path / "aligned.ome.zarr"
    found.warp_to(path)
    group = zarr.open_group(path, mode="r")
    names = {"fixed": "fixed_cells", "r2": "r2_cells", "r2/b": "r2_b_cells"}
    assert group["labels"].attrs["ome"]["labels"] == sorted(names.values())
    shown = group["labels/r2_cells"].attrs["ome"]["image-label"]
    assert shown["colors"] == look["colors"]
    for name, own in names.items():
        warped = xdreg.open_ome_zarr(path / "labels" / own, level=0)
        expected = cells[name]
        if name != "fixed":
            expected = found[name].dreg.warp(expected, labels="nearest")
        np.testing.assert_array_equal(warped, expected)
    found.warp_to(path, label_groups=None, overwrite=True)
    assert not (path / "labels").exists()


def test_aligned_shows_eight_bits_beside_sixteen(images, tmp_path):
    fixed, moving = images
    eight = (moving[0] // 256).astype("uint8").expand_dims("t")
    found = xdreg.register_rounds(fixed, {"r2": eight}, **OPTIONS)
    found.warp_to(tmp_path / "aligned.ome.zarr")
    aligned = xdreg.open_ome_zarr(tmp_path / "aligned.ome.zarr", level=0)
    assert json.loads(aligned.omero.values[1])["window"]["end"] == 255


def test_a_killed_write_of_aligned_is_resumed(images, tmp_path, monkeypatch):
    fixed, moving = images
    found = xdreg.register_rounds(
        *(fixed, {"r2": moving[0], "r3": moving[1]}),
        workdir=tmp_path / "run",
        **OPTIONS,
    )
    made = []

    def counted(level, window, make=warp_to._Level.make):
        made.append(window)
        if len(made) == 2:
            raise KeyboardInterrupt
        return make(level, window)

    monkeypatch.setattr(warp_to._Level, "make", counted)
    options = {"chunks": 48, "levels": 1, "progress": False}
    with dask.config.set(scheduler="synchronous"):
        with pytest.raises(KeyboardInterrupt):
            found.warp_to(tmp_path / "aligned.ome.zarr", **options)
        made.append(None)
        found.warp_to(tmp_path / "aligned.ome.zarr", **options)
    assert len(made) == 5
    aligned = xdreg.open_ome_zarr(tmp_path / "aligned.ome.zarr", level=0)
    np.testing.assert_array_equal(aligned[2], found["r3"].dreg.warp(moving[1]))
