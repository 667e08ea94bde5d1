"""The commands: one thin module each, for the shell and for `ray job submit`.

Imports `pipelines` and `zs3`.
Begin with `label.main`; `cli` holds what commands share.
"""
