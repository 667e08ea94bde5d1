"""What a run would cost, estimated from a measured sample of its images.

Imports `pipelines.labelling`, `pipelines.runs`, `pipelines.tables`, `pipelines.storage`, `pipelines.execution` and
`pipelines.ray_session`.
Begin with `estimate.estimate_run`.
"""
