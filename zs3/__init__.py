"""Zero-shot semantic segmentation: group pixels into segments, then name the segments."""

__version__ = "0.1.0"
