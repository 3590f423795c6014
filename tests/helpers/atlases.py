"""A small atlas in the layout of BrainGlobe's packages."""

import json

import numpy as np
import pandas as pd
import tifffile

import xdreg

#: Labels as large as those of the Allen Brain Atlas: float32 does not hold them.
LEFT, RIGHT, CORE = 182305693, 182305694, 614454277

REGIONS = [
    {"acronym": "root", "id": 997, "name": "root", "structure_id_path": [997]},
    {"acronym": "L", "id": LEFT, "name": "left, a", "structure_id_path": [997, LEFT]},
    {"acronym": "R", "id": RIGHT, "name": "right", "structure_id_path": [997, RIGHT]},
    {"acronym": "C", "id": CORE, "name": "core", "structure_id_path": [997, CORE]},
]  # fmt: skip


def write_atlas(folder, shape=(20, 24, 28), resolution=(50.0, 25.0, 25.0)):
    """Write annotation, metadata and structures; return the annotation's image."""
    folder.mkdir(exist_ok=True)
    annotation = np.zeros(shape, np.int32)
    annotation[2:-2, 2:-2, 2:14] = LEFT
    annotation[2:-2, 2:-2, 14:-2] = RIGHT
    annotation[7:13, 8:16, 10:18] = CORE
    tifffile.imwrite(folder / "annotation.tiff", annotation)
    metadata = {"resolution": list(resolution), "shape": list(shape)}
    (folder / "metadata.json").write_text(json.dumps(metadata), encoding="utf-8")
    (folder / "structures.json").write_text(json.dumps(REGIONS), encoding="utf-8")
    table = pd.DataFrame(REGIONS)
    paths = ["/".join(["", *map(str, p), ""]) for p in table["structure_id_path"]]
    table.assign(structure_id_path=paths).to_csv(folder / "structures.csv", index=False)
    return xdreg.make_image(annotation, resolution, units="micrometer")
