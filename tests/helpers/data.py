"""The folder of the real pairs, and a mark for tests that need it."""

import os
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(
    os.environ.get("XDREG_DATA", Path(__file__).parents[2] / ".." / "shared" / "data")
)

needs_data = pytest.mark.skipif(
    not ROOT.exists(), reason=f"no real pairs at {ROOT}; set XDREG_DATA"
)


def landmarks(pair, which):
    """Read the landmarks of one image of a pair, in dims order."""
    return np.loadtxt(ROOT / pair / f"{which}_landmarks.csv", delimiter=",", skiprows=1)
