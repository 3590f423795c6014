"""Every import goes down the order of the wings or stays in one; no circle of files."""

import ast
import functools
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import xdreg

FOLDER = Path(xdreg.__file__).parent

#: Which wings each wing may import, next to itself. Files at the root are the words.
BELOW = {
    "words": [],
    "numerics": ["words"],
    "stores": ["words", "numerics"],
    "engines": ["words", "numerics", "stores"],
    "fields": ["words", "numerics", "stores"],
    "registration": ["words", "numerics", "stores", "engines", "fields"],
    "bridges": ["words", "numerics", "stores", "engines", "fields", "registration"],
    "views": ["words", "numerics", "stores", "engines", "fields", "registration"],
}
BELOW["cli"] = list(BELOW)

#: Doors import all wings, and no wing imports them.
DOORS = {"__init__", "__main__", "accessor", "itk_dreg", "plot"}


def module_of(path):
    """Return the dotted name of a file below the package."""
    return ".".join(path.relative_to(FOLDER).with_suffix("").parts)


MODULES = {module_of(path): path for path in FOLDER.rglob("*.py")}
PLACES = {f"xdreg.{name}" for name in {*MODULES, *BELOW}}


def wing_of(module):
    """Return the wing of a module."""
    if module == "datasets":
        return "registration"
    return module.split(".")[0] if "." in module else "words"


@functools.cache
def imports_of(module):
    """Return the modules that one imports: at its top, in functions, for types."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            members = {f"{node.module}.{alias.name}" for alias in node.names}
            # A name that is no module comes from the package or module itself.
            found |= members if members <= PLACES else {*members, node.module}
    inside = {name.removeprefix("xdreg.") for name in found}
    inside |= {f"{name}.__init__" for name in inside}
    return (inside | {"__init__"} if "xdreg" in found else inside) & MODULES.keys()


@pytest.mark.parametrize("module", sorted(MODULES.keys() - DOORS))
def test_imports_go_down_or_stay_in_the_wing(module):
    wing = wing_of(module)
    for name in imports_of(module):
        assert name not in DOORS, f"{module} imports the door {name}"
        assert wing_of(name) in [wing, *BELOW[wing]], f"{module} imports {name}"


def test_no_circle_of_files():
    TopologicalSorter({m: imports_of(m) for m in MODULES}).prepare()


@pytest.mark.parametrize("wing", sorted(BELOW.keys() - {"words"}))
def test_the_reading_order_names_every_file(wing):
    text = (FOLDER / wing / "__init__.py").read_text(encoding="utf-8")
    for path in (FOLDER / wing).glob("[!_]*.py"):
        assert f"`{path.stem}`" in text, f"{wing} does not name {path.stem}"


def test_numerics_know_neither_dask_nor_zarr():
    for path in (FOLDER / "numerics").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [alias.name for alias in node.names]
                names.append(getattr(node, "module", None) or "")
                assert not {name.split(".")[0] for name in names} & {"dask", "zarr"}


def test_a_wing_says_its_purpose_and_exports_nothing():
    for wing in BELOW.keys() - {"words", "bridges"}:
        (only,) = ast.parse((FOLDER / wing / "__init__.py").read_text("utf-8")).body
        assert isinstance(only, ast.Expr)
