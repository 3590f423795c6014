"""The displacement field Dataset and what it can do.

Reading order:

1. `field`, the layout; `displacement`, its values as arrays; `reader`, windows and
   points of it; `targets`, grids of results.
2. `points`, `warp`, `warp_to`, `aligned`, `composition`, `preimage`, `inverse`,
   `measures`, `landmarks`, `regions`.
3. `diagnostics`, `provenance`, `tables`, `accuracy`: what a registration says of
   itself, and what landmarks and labels say of it.
4. `store`, saving and opening; `stored`, what a store holds, without displacements; the
   metadata of OME-Zarr 0.6 (RFC-5) in `ome_scene_writer`, `ome_scene_reader` and
   `ome_vectors`; `series_store`, fields of time series.
"""
