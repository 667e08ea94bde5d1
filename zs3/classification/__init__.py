"""Segments get names: class scores, their fusion, and the label map that they paint.

Imports `zs3.segmentation`, `zs3.text`, `zs3.encoders`, `zs3.masks`, and the values.
Begin with `scores.class_scores`, then `fusion.fuse` and `painting.paint`.
"""
