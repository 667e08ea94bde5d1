"""What the commands share: options, exit codes, progress, and the last line of JSON.

Imports `pipelines.runs`, `pipelines.tables`, `pipelines.storage` and `pipelines.execution`.
Begin with `options.parse_command_line`.
"""
