"""Image-text encoders: crops and phrases become unit vectors of one space.

Imports `zs3.tensor_files`.
Begin with `base.Encoder`; `masked_crops` cuts segments out of a picture for them.
"""

from zs3.encoders.base import Encoder, EncoderConfig, Kind, TextEncoder, load_encoder, mean_of_views

__all__ = ["Encoder", "EncoderConfig", "Kind", "TextEncoder", "load_encoder", "mean_of_views"]
