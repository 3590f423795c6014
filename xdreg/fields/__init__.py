"""The displacement field Dataset and what it can do.

Read `field` for its layout, `reader` and `store` for how it is read and saved; then
`points`, `warp`, `warp_to`, `composition`, `inverse` (with `preimage`) and `measures`;
then `provenance`, `diagnostics` and `accuracy`. Files `ome_…` hold the metadata of
RFC-5.
"""
