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
        "cells",
        "pyramid",
        "filters",
        "foreground",
        "terms",
        "scratch",
        "serving",
        "paths",
        "point_files",
        "patience",
        "pictures",
    },
    {
        "inversion",
        "newton",
        "folding",
        "interpolation",
        "consensus",
        "estimates",
        "coordinates",
        "diagnostics",
        "progress",
        "processes",
        "descent",
        "voxel_units",
        "correlation",
        "mind",
    },
    {
        "local_correlation",
        "search",
        "choice",
        "linear",
        "pose",
        "shifts",
        "elastix",
        "itk_bridge",
        "ome_checks",
        "ome_fields",
        "ome_metadata",
        "ome_scenes",
        "ome_vectors",
        "ome_zarr",
        "ome_zarr_writer",
        "outputs",
        "resumable",
        "workdir",
        "block_array",
        "agreement",
    },
    {"channels"},
    {"multiscale", "readers", "preimage", "planning"},
    {"window_pair", "field", "points", "inputs"},
    {"verdicts"},
    {"tasks"},
    {"mapping", "resampling", "sources", "whole", "isolation", "targets", "reductions"},
    {"provenance"},
    {"composition", "inverse_field", "measures", "pyramid_warp", "layers", "itk_dreg"},
    {"windows"},
    {"scene"},
    {"image_layers", "web"},
    {"field_layers", "neuroglancer"},
    {"joining"},
    {"bridges"},
    {"outcome"},
    {"run"},
    {"registration"},
    {"planes", "judging"},
    {"views"},
    {"field_planes", "plot_axes"},
    {"plot_field", "plot_blocks"},
    {"summary", "plot"},
    {"report_content", "report_figures"},
    {"reporting"},
    {
        "accessor",
        "datasets",
        "cli",
        "cli_common",
        "cli_convert",
        "cli_demo",
        "cli_fields",
        "cli_images",
        "cli_inputs",
        "cli_options",
        "cli_register",
        "cli_report",
        "cli_summary",
        "cli_view",
        "cli_warp",
    },
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


def part(path):
    """Return what a file is part of: a folder of modules is one."""
    return path.relative_to(FOLDER).parts[0].removesuffix(".py")


def test_every_module_has_a_layer():
    assert {part(path) for path in FOLDER.rglob("*.py")} == set(LEVEL)


def test_imports_point_downward():
    for path in FOLDER.rglob("*.py"):
        for name in imported(path, deferred=False):
            if name in LEVEL:
                assert LEVEL[name] <= LEVEL[part(path)], f"{path} imports {name}"


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
        "interpolation",
    ):
        assert "dask" not in (FOLDER / f"{name}.py").read_text().replace("Dask", "")
