"""The displacement field Dataset and what it can do.

Reading order:

1. `field`, the layout; `reader`, windows and points of it; `targets`, grids of results.
2. `points`, `warp`, `warp_to`, `composition`, `preimage`, `inverse`, `measures`.
3. `diagnostics`, `provenance`, `tables`, `accuracy`: what a registration says of
   itself, and what landmarks and labels say of it.
4. `store`, saving and opening, with the metadata of OME-Zarr 0.6 (RFC-5) in
   `ome_scene_writer`, `ome_scene_reader` and `ome_vectors`.
"""
