"""Label maps in the file formats of other tools; no format here knows of tables or of the engine.

Imports `zs3.images`.
Begin with `png.png_bytes`.
"""
