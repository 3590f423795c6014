"""Pictures, reports and viewers.

Read `viewed` and `planes`, then `plot` with `plot_field` and `plot_blocks`; `report`;
`scene` with `napari_plugin` and `neuroglancer`; `summary`, a field as text and HTML.
"""
