"""What the commands share: options, exit codes, progress, dry runs, summaries, and the last line of JSON.

Imports `pipelines.runs`, `pipelines.tables`, `pipelines.storage`, `pipelines.ray_session`,
`pipelines.termination` and `pipelines.execution`.
Begin with `options.parse_command_line`.
"""
