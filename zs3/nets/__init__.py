"""Networks, one published block per file. They know pixels and tensors, and neither data sets nor class names.

Imports nothing of ours.
Begin with `zegformer.ZegFormer`.
"""
