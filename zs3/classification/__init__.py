"""Segments are classified: class scores, their fusion, and the label map.

Imports `zs3.segmentation`, `zs3.text`, `zs3.encoders`, `zs3.masks`, `zs3.label_rows`, and the values.
Begin with `scores.class_scores`, then `fusion.fuse` and `semantic_map.semantic_map`.
"""
