"""The command regions, and points with labels."""

import json

import pandas as pd
import pytest

import xdreg
from tests.helpers.atlases import CORE, write_atlas


@pytest.fixture
def atlas(tmp_path):
    """Return a folder with an atlas and a field onto it that moves nothing."""
    annotation = write_atlas(tmp_path)
    annotation.dreg.to_ome_zarr(tmp_path / "annotation.ome.zarr")
    xdreg.save(
        xdreg.landmarks(*[[[0.0] * 3]] * 2, kind="translation").to_field(annotation),
        tmp_path / "field.ome.zarr",
    )
    return tmp_path


def test_volumes_as_a_table_a_file_and_json(xdreg_command, atlas):
    given = (atlas / "field.ome.zarr", atlas / "annotation.ome.zarr")
    names = ("--names", atlas / "structures.csv")
    code, out, err = xdreg_command("regions", *given, *names)
    assert code == 0, err
    assert "core" in out
    assert "micrometer^3" in out
    code, out, _ = xdreg_command("regions", *given, *names, "--json")
    rows = {row["label"]: row for row in json.loads(out)["regions"]}
    assert rows[CORE]["acronym"] == "C"
    assert rows[CORE]["ratio"] == 1
    code, _, err = xdreg_command(
        "regions", *given, "-o", atlas / "volumes.csv", "--image", "fixed"
    )
    assert code == 0, err
    assert pd.read_csv(atlas / "volumes.csv", index_col="label").loc[CORE, "ratio"] == 1


def test_points_with_the_names_of_their_regions(xdreg_command, atlas):
    text = "id,x,y,z\n007,325,250,450\n008,1e9,0,0\n"
    (atlas / "cells.csv").write_text(text, encoding="utf-8")
    command = (
        "points",
        atlas / "field.ome.zarr",
        atlas / "cells.csv",
        "-o",
        atlas / "moved.csv",
    )
    labels = ("--labels", atlas / "annotation.ome.zarr")
    names = ("--names", atlas / "structures.csv")
    code, out, err = xdreg_command(*command, *labels, *names)
    assert code == 0, err
    assert "1 of them nan" in out
    found = pd.read_csv(atlas / "moved.csv", dtype=str)
    assert found["id"].tolist() == ["007", "008"]
    assert found["label"][0] == str(CORE)
    assert found["acronym"][0] == "C"
    assert found[["z", "label", "name"]].iloc[1].isna().all()
    code, _, err = xdreg_command(*command, *names, "--overwrite")
    assert code == 1
    assert "--labels" in err
