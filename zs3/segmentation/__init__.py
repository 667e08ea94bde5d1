"""A picture becomes `Segments`: masks with embeddings, and no class name.

Imports `zs3.nets`, `zs3.encoders`, `zs3.parts`, `zs3.masks` and `zs3.config`.
Begin with `segments.Segments`, then `segmenter.Segmenter`.
"""
