"""Ray Train runs of the loop in `zs3.learning`.

Imports `pipelines.storage`, `pipelines.ray_session` and `zs3`.
Begin with `train.train`.
"""
