"""The commands that fill tables image by image: label, segment, name and retry, with their actors.

Imports `pipelines.runs`, `pipelines.tables`, `pipelines.storage`, `pipelines.execution`, `pipelines.ray_session`, and
all of `zs3` but training. Begin with `label.label`.
"""
