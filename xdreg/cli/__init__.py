"""The command ``xdreg``: one file for each subcommand.

Read `main`, `commands`, `common`, `speaking`, then any subcommand: `register` (with
`inputs`, `options_file` and `summary`), `rounds`, `warp`, `points`, `regions`,
`landmarks`, `invert`, `convert`, `info`, `report`, `view`, `demo`.
"""
