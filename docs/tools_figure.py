"""Figure of docs/tools.md: a shift by one voxel along x, in six kinds of tools.

Every number is read back from a written file.
"""

import json
import tempfile
from pathlib import Path

import itk
import matplotlib.pyplot as plt
import numpy as np
import tensorstore
from matplotlib.patches import FancyArrowPatch, Rectangle

import xdreg
from xdreg import bridges

VOXEL = 2.0
FIXED = xdreg.Grid(("y", "x"), (3, 6), (VOXEL, VOXEL), (10.0, 20.0), "micrometer")
#: Index (y, x) of the marked voxel. In the moving image it is one further along x.
SPOT = (1, 2)
FIXED_COLOUR, MOVING_COLOUR = "#2b6cb0", "#dd6b20"


def shift():
    """Return the field of +1 voxel along x, from fixed to moving."""
    values = np.zeros((2, *FIXED.shape), np.float32)
    values[1] = VOXEL
    return xdreg.make_field(values, FIXED, FIXED, FIXED)


def read_back(field):
    """Write the field in three formats; return each vector at SPOT and origin."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in ("a.h5", "a.nii", "a.n5"):
            field.dreg.to_file(f"{folder}/{name}")
        (transform,) = itk.transformread(f"{folder}/a.h5")
        image = transform.GetDisplacementField()
        found["itk"] = list(image.GetPixel(SPOT[::-1])), list(image.GetOrigin())
        header = Path(f"{folder}/a.nii").read_bytes()
        (start,) = np.frombuffer(header, "<f4", 1, 108)
        vectors = np.frombuffer(header, "<f4", offset=int(start)).reshape(2, 3, 6)
        qoffset = np.frombuffer(header, "<f4", 2, 268)
        found["nifti"] = vectors[:, *SPOT].tolist(), qoffset.tolist()
        dataset = Path(f"{folder}/a.n5/dfield")
        spec = {"driver": "n5", "kvstore": {"driver": "file", "path": f"{dataset}/"}}
        store = tensorstore.open(spec).result()
        attributes = json.loads((dataset / "attributes.json").read_text("utf-8"))
        found["n5"] = store[:, SPOT[1], SPOT[0]].read().result().tolist(), attributes
    return found


def format_vector(values):
    """Format a vector with signs."""
    return "(" + ", ".join(f"{v:+.4g}" if v else "0" for v in values) + ")"


def format_place(values):
    """Format a position."""
    return "(" + ", ".join(f"{v:.4g}" for v in values) + ")"


def pixels_to_physical(grid):
    """Return the matrix from pixels, counted from the corner, to physical points."""
    matrix = np.diag([*grid.spacing, 1.0])
    matrix[:-1, -1] = np.subtract(grid.origin, np.divide(grid.spacing, 2))
    return matrix


def panel(axes, title, *, scale=1.0, mirror=1, corner=None, push=False, unit, text):
    """Draw the lattice in a tool's own coordinates, and the vector that it stores."""
    size = VOXEL * scale
    low_y, low_x = (o * scale - size / 2 for o in FIXED.origin)
    if corner is not None:
        size, (low_y, low_x) = 1.0, corner
    for row in range(FIXED.shape[0]):
        for column in range(FIXED.shape[1]):
            x, y = low_x + column * size, low_y + row * size
            fill = "none"
            if row == SPOT[0] and column in (SPOT[1], SPOT[1] + 1):
                fill = FIXED_COLOUR if column == SPOT[1] else MOVING_COLOUR
            axes.add_patch(
                Rectangle(
                    (mirror * x, mirror * y), mirror * size, mirror * size,
                    facecolor=fill, edgecolor="0.7", linewidth=0.8,
                    alpha=1 if fill == "none" else 0.85,
                )
            )  # fmt: skip
    axes.plot(
        mirror * (low_x + size / 2), mirror * (low_y + size / 2), "k+", markersize=9
    )
    ends = [
        (mirror * (low_x + (c + 0.5) * size), mirror * (low_y + (SPOT[0] + 0.5) * size))
        for c in (SPOT[1], SPOT[1] + 1)
    ]
    axes.add_patch(
        FancyArrowPatch(
            *(ends[::-1] if push else ends), arrowstyle="-|>", mutation_scale=16,
            color="black", shrinkA=0, shrinkB=0, linewidth=1.6,
        )
    )  # fmt: skip
    spans = [
        sorted((mirror * low, mirror * (low + n * size)))
        for low, n in ((low_x, FIXED.shape[1]), (low_y, FIXED.shape[0]))
    ]
    axes.set_xlim(*spans[0])
    axes.set_ylim(*spans[1][::-1])
    axes.set_aspect("equal")
    axes.set_xticks(
        [mirror * (low_x + (c + 0.5) * size) for c in range(FIXED.shape[1])]
    )
    axes.set_yticks([mirror * (low_y + (r + 0.5) * size) for r in range(3)])
    axes.tick_params(labelsize=8, length=3)
    axes.set_xlabel(f"x, {unit}\n{text}", fontsize=8.5, linespacing=1.5)
    axes.set_ylabel(f"y, {unit}", fontsize=8.5)
    axes.set_title(title, fontsize=10.5)


def one_voxel():
    """Draw a shift by one voxel along x as six kinds of tools store it."""
    field = shift()
    found = read_back(field)
    u = field.displacement.values[:, *SPOT]
    params = bridges.to_multiview_stitcher(field).values
    pixels = np.linalg.inv(bridges.to_matrix(field)) @ pixels_to_physical(FIXED)
    start = pixels @ [SPOT[0] + 0.5, SPOT[1] + 1.5, 1.0]
    figure, grid = plt.subplots(2, 3, figsize=(11, 6.2), layout="constrained")
    (a, b, c), (d, e, f) = grid
    panel(a, "xdreg, OME-Zarr", unit="µm", text=f"(y, x): {format_vector(u)} µm, pulls")
    vector, _ = found["itk"]
    panel(
        b, "ITK, SimpleITK, 3D Slicer, elastix", scale=1e-3, unit="mm",
        text=f"(x, y): {format_vector(vector)} mm, pulls",
    )  # fmt: skip
    vector, offset = found["nifti"]
    panel(
        c, "ANTs, NIfTI", scale=1e-3, mirror=-1, unit="mm (RAS)",
        text=f"(x, y): {format_vector(vector)} mm along LPS, pulls\n"
        f"qoffset {format_place(offset)}",
    )  # fmt: skip
    vector, attributes = found["n5"]
    panel(
        d, "BigWarp, N5 dfield", unit="µm",
        text=f"(x, y): {format_vector(vector)} µm, pulls\n"
        f"offset {format_place(attributes['offset'])}",
    )  # fmt: skip
    panel(
        e, "multiview-stitcher", push=True, unit="µm",
        text=f"(y, x): {format_vector(np.round(params[:2, 2], 5))} µm, pushes\n"
        "the moving view",
    )  # fmt: skip
    panel(
        f, "spatialdata", corner=(0.0, 0.0), push=True, unit="pixels of moving",
        text=f"(y, x): pixel {format_place([SPOT[0] + 0.5, SPOT[1] + 1.5])} is pushed\n"
        f"to {format_place(start[:2])} µm",
    )  # fmt: skip
    handles = [Rectangle((0, 0), 1, 1, color=c) for c in (FIXED_COLOUR, MOVING_COLOUR)]
    handles.append(plt.Line2D([], [], marker="+", color="k", linestyle="none"))
    figure.legend(
        handles,
        ["in the fixed image", "the same in the moving one", "centre of voxel (0, 0)"],
        loc="outside lower center", ncols=3, frameon=False, fontsize=9,
    )  # fmt: skip
    return figure
