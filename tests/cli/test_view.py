"""The command ``view``, with images served to a browser."""

import signal
import subprocess
import sys

import numpy as np

import xdreg
from tests.helpers.commands import ON_A_TERMINAL
from tests.helpers.viewers import state_of


def test_what_a_field_was_made_of_is_served(tmp_path):
    pair = xdreg.datasets.phantom_pair((60, 70), amplitude=2.0)
    paths = [tmp_path / f"{name}.ome.zarr" for name in ("fixed", "moving")]
    for image, path in zip((pair.fixed, pair.moving), paths, strict=True):
        xdreg.save(image, path)
    images = [xdreg.open_ome_zarr(path) for path in paths]
    field = images[0].dreg.register(images[1], stages=xdreg.Affine(), progress=False)
    field.dreg.to_ome_zarr(tmp_path / "field.ome.zarr")
    command = [sys.executable, "-c", ON_A_TERMINAL + "main()", "view"]
    with subprocess.Popen(
        [*command, str(tmp_path / "field.ome.zarr"), "--neuroglancer"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            link = process.stdout.readline().strip()
            sources = {v["name"]: v["source"] for v in state_of(link)["layers"]}
            url = sources["warped"].removeprefix("zarr://")
            found = xdreg.open_ome_zarr(url, level=0).values
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=20)
        finally:
            process.kill()
    assert process.returncode == 0, errors
    np.testing.assert_array_equal(found, field.dreg.warp(images[1]).values)
