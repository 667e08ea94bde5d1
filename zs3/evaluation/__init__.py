"""One image against its truth: classes matched by name, the per-image score row, and scores with oracles.

Imports `zs3.metrics`, `zs3.classification`, `zs3.segmentation`, and the values.
Begin with `image_scores.image_score_row`.
"""
