"""Storage: images, points and outputs on disks and servers.

Reading order: how an image is opened (`ome_zarr`, `ome_metadata`, `systems`,
`orientation`, `nodes`, `ome_checks`), how its chunks are read (`checked_arrays`,
`fetching`, `unpacking`), how blocks read it (`pyramid`, `channels`, `readers`,
`reordered`), what it is known by (`identity`), how an output is written (`ome_writer`,
`label_groups`, `outputs`, `unfinished`, `resumable`) and what it must not replace
(`ownership`, `apart`), other formats (`image_files`, `voxel_files`, `tiff_images`,
`dicom_series`, `itk_images`, `memory_images`, `napari_layers`, `point_files`,
`landmark_files`, `region_names`), real pairs to try (`published_pairs`), and what all
of them use (`paths`, `named_files`, `files`, `retrying`, `locks`, `posix`, `forks`,
`progress`, `graphs`).
"""
