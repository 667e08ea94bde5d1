"""Files on local disks and in object stores: reads with retries, atomic writes, rows spilled to disk and sorted there.

Imports no other room.
Begin with `objects.read_bytes`.
"""
