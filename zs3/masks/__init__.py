"""Masks as bytes: stored soft masks, binary masks as run lengths, and masks that other tools wrote.

Imports `zs3.images`, and from `zs3.datasets` the matching of file names.
Begin with `store.encode_masks`.
"""
