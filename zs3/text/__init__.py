"""Text banks: one unit vector per class name, encoded or stored, and which classes are too close to each other.

Imports `zs3.encoders`, `zs3.tensor_files`, `zs3.config` and `zs3.vocabulary`.
Begin with `bank.TextBank`.
"""
