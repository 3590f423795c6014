"""Stored images, and edits of their metadata."""

import json

import numpy as np
import xarray as xr

import xdreg
from xdreg.coordinates import coordinates
from xdreg.grid import Grid
from xdreg.stores.pyramid import image_levels


def sample(ndim=3, channels=0, dtype="uint16"):
    """Return an image of random integers on an uneven grid."""
    grid = Grid(
        ("z", "y", "x")[-ndim:],
        (21, 70, 93)[-ndim:],
        (2.5, 1.366, 1.366)[-ndim:],
        (-1434.5, 3.3, 0.1)[-ndim:],
        "millimeter",
    )
    shape = (channels,) * bool(channels) + grid.shape
    values = np.random.default_rng(0).integers(0, 200, shape).astype(dtype)
    dims = ("c",) * bool(channels) + grid.dims
    image = xr.DataArray(values, dims=dims, coords=coordinates(grid))
    return image.assign_coords(c=["dapi", "gfp"][:channels]) if channels else image


def rgb(image, *, alpha=False, axis=0):
    """Return a colour image whose channels differ."""
    grey = image.astype("float32").load() / 60_000 * 255
    parts = [grey, 0.5 * grey + 20, 200 - 0.5 * grey]
    if alpha:
        parts.append(grey * 0 + 255)
    colour = xr.concat(parts, "c").astype("uint8")
    return colour.transpose(*np.roll(colour.dims, -axis))


def levels_of(path):
    """Return the levels of a stored image, finest first."""
    return image_levels(xdreg.open_ome_zarr(path), "image")


def edited(path, change, version="0.5"):
    """Write an image, then change its metadata in place."""
    xdreg.save(sample(2), path, version=version, overwrite=True)
    document = path / (".zattrs" if version == "0.4" else "zarr.json")
    content = json.loads(document.read_text("utf-8"))
    ome = content if version == "0.4" else content["attributes"]["ome"]
    change(ome)
    document.write_text(json.dumps(content))
    return path


def multiscale(**changes):
    """Return a change of an image's multiscale metadata."""
    return lambda ome: ome["multiscales"][0].update(changes)


def dataset(**changes):
    """Return a change of the metadata of an image's finest level."""
    return lambda ome: ome["multiscales"][0]["datasets"][0].update(changes)


def axes(*named):
    """Return a change of an image's axes."""
    return multiscale(axes=[{"name": n, "type": t} for n, t in named])


class Trap:
    """Runs code where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))
