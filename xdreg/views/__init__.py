"""Plots, reports and viewers of a registration.

Read in this order:

- what is looked at: `planes`, `pictures`, `image_view`, `field_planes`, `lazy_readers`,
  and `scene`, the one value with a field and its images that all the others share;
- plots: `colours`, `plot_axes`, `plot_field`, `plot_blocks`, `plot`;
- reports: `summary`, `report_content`, `report_figures`, `report`,
  `rounds_report`;
- napari: `napari_images`, `napari_fields`, `napari_plugin`, `napari_widget`, and
  `napari_transform` for its points and shapes;
- Neuroglancer: `neuroglancer_server`, `neuroglancer`.
"""
