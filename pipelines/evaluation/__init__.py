"""Labels, segments or a checkpoint against the truth of a data set: per-image score rows, sums, report.

Imports `pipelines.labelling`, `pipelines.runs`, `pipelines.tables`, `pipelines.storage`, and `zs3`.
Begin with `evaluate.evaluate`.
"""
