"""Scenes: units, levels and channels."""

import numpy as np
import pytest
import xarray as xr

import xdreg
from tests.helpers.fields import Known, noisy_moving
from xdreg.coordinates import coordinates, grid_of
from xdreg.fields.displacement import make_field
from xdreg.views.scene import make_scene


def test_scene_takes_units_and_levels():
    known = Known(3)
    moving = noisy_moving(known).astype("float32")
    small = moving.coarsen(z=2, y=2, x=2, boundary="trim").mean()
    for dim in "zyx":
        small[dim].attrs["units"] = "micrometer"
    levels = {"scale0": {"image": moving}, "scale1": {"image": small}}
    tree = xr.DataTree.from_dict({name: xr.Dataset(v) for name, v in levels.items()})
    millimetres = grid_of(moving).to_units("millimeter")
    fixed = xr.DataArray(
        np.zeros(known.fixed.shape, np.uint8),
        dims=known.fixed.dims,
        coords=coordinates(known.fixed.to_units("millimeter")),
    )
    assert millimetres.units == "millimeter"
    scene = make_scene(known.field, fixed, tree)
    assert scene.fixed[0].grid.units == "micrometer"
    np.testing.assert_allclose(scene.fixed[0].grid.spacing, known.fixed.spacing)
    assert len(scene.moving) == 2
    made_up = make_scene(known.field, None, tree).warped
    assert [r.grid.shape for r in made_up] == [known.fixed.shape]
    pixels = moving.copy()
    for dim in "zyx":
        pixels[dim].attrs.clear()
    with pytest.raises(xdreg.InputError, match="do not convert"):
        make_scene(known.field, fixed, pixels)


def test_scene_shows_what_was_registered():
    known = Known(2)
    moving = noisy_moving(known).expand_dims(c=3).copy()
    moving[1] = 7
    known.field.attrs["xdreg"] = '{"channels": [[{}], [{"c": 1}]]}'
    assert (make_scene(known.field, None, moving).moving[0].read() == 7).all()
    known.field.attrs["xdreg"] = '{"channels": [[{}], [{"c": [0, 2, 0]}]]}'
    assert (make_scene(known.field, None, moving).moving[0].read() == 14).all()
    one = make_scene(known.field, None, moving, channel=0).moving[0]
    np.testing.assert_array_equal(one.read(), moving[0])
    for hostile in ('{"channels": 3}', '{"channels": [[], [{"c": ["a", 1, 2]}]]}'):
        known.field.attrs["xdreg"] = hostile
        with pytest.raises(xdreg.InputError, match="choose one"):
            make_scene(known.field, None, moving.astype(np.uint16))
        # Of an RGB image, the luminance.
        shown = make_scene(known.field, None, moving).moving_view
        assert len(shown.select["c"]) == 3
    known.field.attrs["xdreg"] = "[]"
    with pytest.raises(xdreg.StoreError, match="expected an object"):
        make_scene(known.field, None, moving)


def test_channels_are_those_that_were_registered():
    pair = xdreg.datasets.phantom_pair((40, 44), amplitude=1.0)
    empty = xr.zeros_like(pair.fixed)
    fixed, moving = (
        xr.concat([empty, image, empty], "c").transpose("c", "y", "x").astype(np.uint16)
        for image in (pair.fixed, pair.moving)
    )
    field = xdreg.register(
        fixed, moving, channel=1, stages=[xdreg.Translation(metric="lncc")],
        metric="lncc", progress=False,
    )  # fmt: skip
    scene = make_scene(field, fixed, moving)
    assert scene.pair[0].select == {"c": 1}
    np.testing.assert_allclose(scene.plane().fixed, pair.fixed, rtol=1e-5)
    bare = make_field(field.displacement.data, grid_of(field.displacement[0]))
    with pytest.raises(xdreg.InputError, match="3 channels"):
        make_scene(bare, fixed, moving)
    assert make_scene(bare, fixed, moving, channel=2).moving_view.select == {"c": 2}
