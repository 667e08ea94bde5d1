"""Files wherever they lie: object stores and local disks, atomic writes, rows spilled to disk and sorted there.

Imports nothing of ours.
Begin with `objects.read_bytes`.
"""
