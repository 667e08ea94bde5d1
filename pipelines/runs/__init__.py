"""One run over many images: the listing, what is left of it, commits as it goes, crashes, stalls, and its status.

Imports `pipelines.tables`, `pipelines.storage`, `pipelines.execution`, and `zs3.tables`.
Begin with `run.run_table`.
"""
