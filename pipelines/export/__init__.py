"""Label tables as files of other tools.

Imports `pipelines.tables`, `pipelines.storage`, and `zs3.export`.
Begin with `export.export`.
"""
