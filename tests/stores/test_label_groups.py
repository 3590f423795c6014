"""Labels in the store of an image are warped along with it."""

import json
import shutil

import numpy as np
import pytest
import zarr

import xdreg
from tests.helpers.images import texture

LOOK = {
    "colors": [{"label-value": 3, "rgba": [255, 0, 0, 255]}],
    "properties": [{"label-value": 3, "class": "nucleus"}],
}


def store_with_labels(path, version):
    """Write an image with labels of three kinds, as other writers lay them out."""
    values = texture((70, 90), seed=2)
    image = xdreg.make_image(values, (0.5, 0.5), units="micrometer")
    xdreg.save(image, path, version=version)
    labels = (image > 0.5).astype("uint16") * 3
    for name in ("cells", "nuclei"):
        xdreg.save(labels, path / "labels" / name, version=version, labels=True)
    group = zarr.open_group(path / "labels", zarr_format=2 if version == "0.4" else 3)
    listed = {"labels": ["cells", "nuclei"]}
    group.attrs.update(listed if version == "0.4" else {"ome": listed})
    cells = zarr.open_group(path / "labels" / "cells", mode="r+")
    if version == "0.4":
        cells.attrs["image-label"] = LOOK
    else:
        cells.attrs["ome"] = {**cells.attrs["ome"], "image-label": LOOK}
    return image, labels


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_labels_are_warped_along(tmp_path, version):
    image, labels = store_with_labels(tmp_path / "moving.zarr", version)
    moving = xdreg.open_ome_zarr(tmp_path / "moving.zarr")
    shift = np.eye(3)
    shift[:2, 2] = 2.0, 1.5
    field = xdreg.compose(shift, like=image)
    out = tmp_path / "moved.zarr"
    field.dreg.warp_to(moving, out, version=version, progress=False)
    found = xdreg.open_ome_zarr(out / "labels" / "cells", level=0)
    assert found.dtype == labels.dtype
    np.testing.assert_array_equal(found[:-4, :-3], labels[4:, 3:])
    group = zarr.open_group(out, mode="r")
    attrs = dict(group["labels"].attrs)
    assert attrs.get("ome", attrs)["labels"] == ["cells", "nuclei"]
    attrs = dict(group["labels/cells"].attrs)
    look = attrs.get("ome", attrs)["image-label"]
    assert {k: look[k] for k in LOOK} == LOOK
    assert look["source"] == {"image": "../../"}
    coarse = xdreg.image_levels(xdreg.open_ome_zarr(out / "labels" / "cells"), "a")[-1]
    assert set(np.unique(coarse)) <= {0, 3}
    # They are the image's: replaced with it, unless there is more.
    field.dreg.warp_to(
        moving, out, version=version, overwrite=True, progress=False, label_groups=None
    )
    assert not (out / "labels").exists()
    field.dreg.warp_to(moving, out, version=version, overwrite=True, progress=False)
    shutil.copytree(out / "labels" / "cells", out / "labels" / "mine")
    with pytest.raises(xdreg.StoreError, match="labels/mine"):
        field.dreg.warp_to(moving, out, overwrite=True, progress=False)


def test_the_command_warps_labels(xdreg_command, tmp_path):
    image, labels = store_with_labels(tmp_path / "moving.zarr", "0.5")
    field = xdreg.compose(np.eye(3), like=image)
    xdreg.save(field, tmp_path / "field.zarr")
    names = [str(tmp_path / n) for n in ("field.zarr", "moving.zarr", "moved.zarr")]
    options = ["-o", names[2], "--label-rule", "majority"]
    assert xdreg_command("warp", *names[:2], *options)[0] == 0
    found = xdreg.open_ome_zarr(tmp_path / "moved.zarr" / "labels" / "nuclei", level=0)
    np.testing.assert_array_equal(found, labels)
    options = ["-o", names[2], "--image-only", "--overwrite"]
    assert xdreg_command("warp", *names[:2], *options)[0] == 0
    assert not (tmp_path / "moved.zarr" / "labels").exists()


def test_labels_that_cannot_be_warped_are_said(tmp_path):
    image, _ = store_with_labels(tmp_path / "moving.zarr", "0.5")
    document = tmp_path / "moving.zarr" / "labels" / "zarr.json"
    content = json.loads(document.read_text("utf-8"))
    content["attributes"]["ome"]["labels"] += ["gone", "../../moving.zarr", 3]
    document.write_text(json.dumps(content), encoding="utf-8")
    moving = xdreg.open_ome_zarr(tmp_path / "moving.zarr")
    field = xdreg.compose(np.eye(3), like=image)
    with pytest.warns(UserWarning, match="'gone'.*left out") as said:
        field.dreg.warp_to(moving, tmp_path / "moved.zarr", progress=False)
    assert len([one for one in said if "left out" in str(one.message)]) == 3
