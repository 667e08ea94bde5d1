"""Two evaluations of the same images: paired differences with intervals, and which pixels changed class.

Imports `pipelines.evaluation`, `pipelines.tables`, `pipelines.storage`, and `zs3.metrics`.
Begin with `compare.compare`.
"""
