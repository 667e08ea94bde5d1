"""A checkpoint, loaded and ready: the labeller (picture to label map) and the exporter (picture to segments).

Imports `zs3.segmentation`, `zs3.classification`, `zs3.text`, `zs3.encoders`, `zs3.nets`, and the values.
Begin with `labeller.Labeller`.
"""
