"""Models of others, of which checkpoints are composed: where they are, and the masks of published segmenters.

Imports `zs3.files`, `zs3.masks` and `zs3.wording`.
Begin with `references.Part`; `mask_sources.mask_source` loads a segmenter.
"""
