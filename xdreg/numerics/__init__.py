"""Kernels and small numerics: arrays in, arrays out, without Dask, Zarr or files.

Reading order: `kernel_files`, `kernels`, `interpolation`, `filters`, `trilinear`; then
`folding`, `newton`, `inversion`, `metrics`, `point_tables`, `consensus`, `outliers`,
`foreground`; `resolution`, `brightness`, `nodes`, `correlation_kernels`, `descriptors`
and `compiled` for the engines; the same on arrays of NumPy or a GPU, `arrays`,
`array_correlation`, `array_descriptors`, `array_spline` and `devices`. `itk_transforms`
converts transforms from and to ITK.
"""
