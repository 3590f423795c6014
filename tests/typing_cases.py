"""What type checkers say of calls: mypy fails where an error below is not found.

mypy reads this file; nothing runs it.
"""

import numpy as np

import xdreg


def calls() -> None:
    fixed, moving = (xdreg.open_ome_zarr(name) for name in ("a.zarr", "b.zarr"))
    field = fixed.dreg.register(moving, block_shape=64)
    fixed.dreg.register(moving, blok=3)  # type: ignore[call-arg]
    fixed.dreg.register(moving, metric="lcc")  # type: ignore[arg-type]
    fixed.dreg.plan(moving, channel=1, workdir="run")
    fixed.dreg.plan(moving, chanel=1)  # type: ignore[call-arg]
    xdreg.open_ome_zarr("a.zarr", level=0).dreg.register()  # type: ignore[call-arg]
    xdreg.open_image("a.nii").dreg.register(moving, overlap=4)
    moved = field.dreg.warp(moving, order=3)
    field.dreg.warp(moving, ordre=3)  # type: ignore[call-arg]
    moved.dreg.to_ome_zarr("moved.zarr", levels=2)
    field.dreg.inverse().dreg.transform_points(np.zeros((1, 2)), inverse=True)
    field.dreg.transform_points()  # type: ignore[call-arg]
    xdreg.open_field("field.zarr").dreg.to_file("a.nii", unit="mm")  # type: ignore[call-arg]
    field.dreg.report("qc.html", fixed, moving, titel="x")  # type: ignore[call-arg]
