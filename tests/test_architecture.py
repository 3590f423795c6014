"""Imports point downward only, through the layers that the package is built in."""

import ast
from pathlib import Path

import xdreg

LAYERS = [
    {"errors"},
    {
        "grid",
        "options",
        "blocks",
        "kernels",
        "metrics",
        "bspline",
        "pyramid",
        "filters",
        "foreground",
        "terms",
        "scratch",
        "serving",
        "paths",
        "patience",
    },
    {
        "inversion",
        "newton",
        "estimates",
        "coordinates",
        "processes",
        "descent",
        "correlation",
        "mind",
    },
    {
        "local_correlation",
        "choice",
        "linear",
        "pose",
        "shifts",
        "elastix",
        "itk_bridge",
        "ome_checks",
        "ome_fields",
        "ome_metadata",
        "ome_zarr",
        "ome_zarr_writer",
        "outputs",
        "workdir",
        "block_array",
        "agreement",
    },
    {"multiscale", "readers", "preimage", "planning", "progress"},
    {"tasks", "field", "points", "inputs"},
    {"mapping", "resampling", "sources", "whole", "isolation"},
    {"composition", "inverse_field", "measures", "windows"},
    {"scene"},
    {"image_layers", "web"},
    {"field_layers", "neuroglancer"},
    {"run"},
    {"registration"},
    {"accessor", "datasets", "plot", "cli", "cli_common", "cli_fields", "cli_view"},
    {"napari_plugin", "napari_widget"},
    {"__init__"},
]
LEVEL = {module: i for i, layer in enumerate(LAYERS) for module in layer}
FOLDER = Path(xdreg.__file__).parent


def imported(path, *, deferred):
    """Yield the modules of xdreg that a file imports, at its top or anywhere."""
    tree = ast.parse(path.read_text())
    nodes = ast.walk(tree) if deferred else tree.body
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module:
            if node.module == "xdreg":
                yield from (alias.name for alias in node.names)
            elif node.module.startswith("xdreg."):
                yield node.module.split(".")[1]


def test_every_module_has_a_layer():
    assert {p.stem for p in FOLDER.glob("*.py")} == set(LEVEL)


def test_imports_point_downward():
    for path in FOLDER.glob("*.py"):
        for name in imported(path, deferred=False):
            if name in LEVEL:
                assert LEVEL[name] <= LEVEL[path.stem], f"{path.stem} imports {name}"


def test_kernels_know_no_dask():
    for name in (
        "kernels",
        "descent",
        "correlation",
        "inversion",
        "newton",
        "preimage",
        "grid",
        "blocks",
        "metrics",
        "bspline",
    ):
        assert "dask" not in (FOLDER / f"{name}.py").read_text().replace("Dask", "")
