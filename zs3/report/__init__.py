"""The report of an evaluation: one dict (`report.json`) that page, Markdown and terminal table show.

Imports `zs3.metrics` and `zs3.vocabulary`.
Begin with `values.report_values`, then `page`.
"""
