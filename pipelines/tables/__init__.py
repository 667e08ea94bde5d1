"""Delta tables: the driver commits the files that tasks write; readers open one version.

Imports `pipelines.storage`, and `zs3.vocabulary`.
Begin with `delta_writer.publish`, then `label_table.open_labels`.
"""
