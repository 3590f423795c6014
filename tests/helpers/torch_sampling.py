"""Sample an image by torch: ``torch_sampling.py FOLDER ALIGN_CORNERS``.

Run by an interpreter that has torch.
"""

import sys
from pathlib import Path

import numpy as np
import torch

folder, align = Path(sys.argv[1]), sys.argv[2] == "True"
image, grid, flow = (
    torch.from_numpy(np.load(folder / f"{name}.npy"))
    for name in ("image", "grid", "flow")
)
options = {"mode": "bilinear", "padding_mode": "border"}
moved = torch.nn.functional.grid_sample(
    image[None, None], grid[None], align_corners=align, **options
)
# As in VoxelMorph's SpatialTransformer.
places = torch.meshgrid(*[torch.arange(n) for n in flow.shape[1:]], indexing="ij")
new = (torch.stack(places) + flow)[None]
for axis, n in enumerate(image.shape):
    new[:, axis] = 2 * (new[:, axis] / (n - 1) - 0.5)
new = new.movedim(1, -1).flip(-1)
by_flow = torch.nn.functional.grid_sample(
    image[None, None], new, align_corners=True, **options
)
np.save(folder / "moved.npy", moved[0, 0].numpy())
np.save(folder / "by_flow.npy", by_flow[0, 0].numpy())
print("done")
