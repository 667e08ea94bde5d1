"""What the commands share: options, exit codes, progress, dry runs, summaries, and the last line of JSON.

Imports `zs3.wording`, `pipelines.runs`, `pipelines.tables`, `pipelines.storage`, `pipelines.ray_session`,
`pipelines.termination`, `pipelines.execution` and `zs3.wording`.
Begin with `options.parse_command_line`.
"""
