"""Which naming settings suit stored segments: the grid, the trials, and the curve of seen against unseen classes.

Imports `zs3.classification`, `zs3.segmentation`, `zs3.text`, `zs3.metrics`, and the values.
Begin with `grid.NamingGrid`, then `trials.sweep_image`.
"""
