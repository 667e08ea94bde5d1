"""Released weights become checkpoints of zs3: one file per published code base, and one of its names.

`compose` refers to models of others instead.

Imports `zs3.tensor_files`, `zs3.parts`, `zs3.encoders`, `zs3.nets`, `zs3.recipes`, `zs3.segmentation`, and the values.
Begin with `zegformer.convert`.
"""
