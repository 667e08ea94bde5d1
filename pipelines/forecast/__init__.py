"""What a run would cost, estimated from a measured sample of its images.

Imports `pipelines.labelling`, `pipelines.runs`, `pipelines.storage`.
Begin with `forecast.plan`.
"""
