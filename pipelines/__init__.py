"""The Ray graphs. Only this layer imports Ray.

Imports `zs3`.
Begin with `labelling.label`; docs/architecture.md draws the folders.
"""
