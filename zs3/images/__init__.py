"""Picture files in and out: bytes to upright RGB pixels, label maps to PNG and back; files are checked before they
are decoded.

Imports nothing of ours.
Begin with `codec.decode`.
"""
