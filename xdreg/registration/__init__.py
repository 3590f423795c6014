"""The map-reduce: from a pair of images to one displacement field.

Read `register`, `planning`, `planned_stage`, `run`, `blockwise`, `mapping`,
`register_block`, `window`, `judge`, `blend_block` and `result`, in this order. Then
`planned_methods`, `plan`, `plan_table`, `whole`, `linear_stage`, `agreement` and
`reductions`. Then what they stand on: `inputs`, `placement`, `landmark_start`,
`manifest`, `method_identity`, `source`, `made_array`, `state`, `outcome`, `cluster`,
`workers`, `devices`, `resources`, `fitting`, `estimates`, `progress`, `spoken`,
`workdir`, `run_files`, `block_array` and `seals`. `rounds`, with `rounds_result`, and
`stabilize` are loops around all that: several moving images, and the frames of a
`series` (`following`, `frames`, `motion_path`). `verdict` is what a result says of
itself.
"""
