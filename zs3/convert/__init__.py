"""Released weights become checkpoints of zs3: one file per published code base, and one of its names.

Imports `zs3.tensor_files`, `zs3.encoders`, `zs3.nets`, `zs3.recipes`, and the values.
Begin with `zegformer.convert`.
"""
