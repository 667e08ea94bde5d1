"""Text banks: one unit vector per class name, encoded or stored, and which classes lie too close together.

Imports `zs3.encoders`, `zs3.config` and `zs3.vocabulary`.
Begin with `bank.TextBank`.
"""
