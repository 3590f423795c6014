"""The public names of the package."""

import inspect
import subprocess
import sys
from types import ModuleType

import pytest

import xdreg


def test_the_public_names_are_listed_once():
    assert dir(xdreg) == sorted(xdreg.__all__)
    assert len(set(xdreg.__all__)) == len(xdreg.__all__)


@pytest.mark.parametrize("name", sorted(xdreg.__all__))
def test_a_public_name_exists_and_is_documented(name):
    value = getattr(xdreg, name)
    if name == "__version__":
        assert isinstance(value, str)
        return
    if isinstance(value, ModuleType):
        assert value.__name__ == f"xdreg.{name}"
    else:
        assert value.__name__ == name
        assert value.__module__.startswith("xdreg.")
    assert inspect.getdoc(value)


def test_public_modules_show_public_names_alone():
    for name in ("bridges", "datasets", "itk_dreg", "plot"):
        module = getattr(xdreg, name)
        assert dir(module) == sorted(module.__all__)


def test_other_names_are_errors():
    with pytest.raises(AttributeError, match="has no attribute 'registr'"):
        xdreg.registr  # noqa: B018


def test_import_loads_no_slow_library():
    code = "import sys, xdreg; print(*{m.split('.')[0] for m in sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, encoding="utf-8"
    )
    slow = {"itk", "matplotlib", "napari", "numba", "ngff_zarr", "distributed"}
    assert slow.isdisjoint(done.stdout.split())


def test_the_default_path_needs_no_itk(tmp_path):
    code = f"""
import sys
for name in ("itk", "SimpleITK"):
    sys.modules[name] = None  # an import of it fails
import xdreg

if __name__ == "__main__":
    folder = {str(tmp_path)!r}
    paths = xdreg.datasets.write_phantom_pair(folder, (40, 48), amplitude=1.0)
    fixed, moving = map(xdreg.open_ome_zarr, paths)
    print(fixed.dreg.plan(moving))
    field = fixed.dreg.register(moving, progress=False)
    path = {str(tmp_path / "field.ome.zarr")!r}
    xdreg.save(field, path)
    field = xdreg.open_field(path)
    field.dreg.warp_to(moving, {str(tmp_path / "moved.ome.zarr")!r}, progress=False)
    field.dreg.transform_points([[20.0, 20.0]])
    field.dreg.report({str(tmp_path / "qc.html")!r}, fixed, moving)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=False
    )
    assert done.returncode == 0, done.stderr
