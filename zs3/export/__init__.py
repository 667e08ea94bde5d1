"""Label maps in the file formats of other tools; nothing here depends on tables or on Ray.

Imports `zs3.images`.
Begin with `png.png_bytes`.
"""
