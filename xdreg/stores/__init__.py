"""Images and outputs where they are stored.

Read `ome_zarr`, `ome_metadata` and `ome_checks` for how an image is opened, `channels`,
`pyramid` and `readers` for how it is read, `ome_writer`, `outputs` and `resumable` for
how an output is written. `itk_images` and `point_files` are other formats; `paths`,
`retrying`, `locks`, `posix` and `progress` serve all of them.
"""
