"""Masks as bytes: stored soft masks, binary masks as run lengths, and masks that other tools wrote.

Imports `zs3.images`.
Begin with `store.encode_masks`.
"""
