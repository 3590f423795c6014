"""Arrays in, arrays out: no Dask, no Zarr, no files.

Read `kernels`, then `interpolation` and `filters`; then what is built on them:
`folding`, `newton`, `inversion`, `trilinear`, `metrics`, `foreground`. `itk_transforms`
converts transforms of ITK.
"""
