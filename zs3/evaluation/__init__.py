"""One image against its truth: classes matched by name, the per-image score row, and scores with an oracle in one
part.

Imports `zs3.metrics`, `zs3.classification`, `zs3.segmentation`, and the values.
Begin with `matching.image_confusion`.
"""
