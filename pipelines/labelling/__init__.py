"""The commands that fill tables image by image: label, segment, name, and retry, with their actors.

Imports `pipelines.runs`, `pipelines.tables`, `pipelines.storage`, and all of `zs3` but training.
Begin with `label.label`.
"""
