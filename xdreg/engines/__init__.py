"""Registration methods: two small images in, one transform out.

Reading order: `local_correlation`, the default, with `descent`, `voxel_units`,
`metric`, `correlation`, `mind`, `own_metrics`, `smoothness`, `discrete_search` and
`landmark_pull`, on a GPU with `device`, `array_level` and `device_spline`; `linear`,
with `pose`, `pose_text` and `shift_search`; `metric_choice`. `elastix`, with
`elastix_parameters` and `bspline`, runs in the processes of `processes`:
`elastix_process` and `process_worker` are the inner side, `messages` what goes between.
`isolated` runs users' methods there. `result` is what every method returns.
"""
