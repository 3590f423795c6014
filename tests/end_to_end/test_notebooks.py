"""Notebooks: valid, without outputs, and all shown in the documentation."""

import re
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_valid_and_stripped(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.cells[0].source.startswith("# ")
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert not cell.outputs
            assert cell.execution_count is None


def test_every_notebook_is_a_tutorial():
    listed = re.findall(
        r"^notebooks/(\w+)$", (ROOT / "docs/index.md").read_text("utf-8"), re.M
    )
    assert sorted(listed) == [path.stem for path in NOTEBOOKS]
