"""A run over many images: its listing, what of it is pending, commits as it goes, crashes, stalls, and its status.

Imports `pipelines.tables`, `pipelines.storage`, `pipelines.execution`, `pipelines.ray_session`,
`pipelines.termination`, and `zs3.tables`.
Begin with `run.run_table`.
"""
