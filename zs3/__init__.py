"""Zero-shot semantic segmentation: group pixels into segments, then name the segments.

Imports nothing of ours.
Begin with `vocabulary`, then `segmentation.segmenter` and `classification.scores`.
"""

__version__ = "0.1.0"
