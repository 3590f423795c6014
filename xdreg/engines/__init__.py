"""Two small images in, one transform out.

Read `local_correlation`, the default, with `descent`, `correlation`, `mind` and
`discrete_search`; then `linear`, with `pose` and `shift_search`; then `metric_choice`.
`elastix` and `bspline` run in the processes of `processes` and `process_worker`, as
users' methods do in `isolated`. `result` is what every method returns.
"""
