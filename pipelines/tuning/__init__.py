"""Naming settings tried on stored segments with truth.

Imports `pipelines.evaluation`, `pipelines.labelling`, and `zs3.tuning`.
Begin with `tune.tune`.
"""
