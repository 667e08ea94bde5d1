"""Grouping: pictures become segments with a mask, an embedding per branch and a `no object` logit each."""

# K segment, D E embedding, H W picture pixels, h w mask cells of stride 4
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from zs3.config import SegmentSettings
from zs3.encoders import Encoder
from zs3.encoders.masked_crops import picture_crop, segment_embeddings
from zs3.nets.zegformer import ZegFormer, class_logits
from zs3.segmentation.segments import Segments


def resized_size(height: int, width: int, short_side_px: int, max_side_px: int) -> tuple[int, int]:
    """Height and width after resizing the shorter side, the longer one limited (detectron2's ResizeShortestEdge)."""
    scale = short_side_px / min(height, width)
    new_h, new_w = (short_side_px, scale * width) if height < width else (scale * height, short_side_px)
    if max(new_h, new_w) > max_side_px:
        scale = max_side_px / max(new_h, new_w)
        new_h, new_w = new_h * scale, new_w * scale
    return max(1, int(new_h + 0.5)), max(1, int(new_w + 0.5))


def resize(pixels_HW3: np.ndarray, settings: SegmentSettings) -> Tensor:
    """(3, h, w) float32 RGB in 0..255: the picture at the network's scale, resized by Pillow's bilinear filter."""
    height, width = resized_size(
        pixels_HW3.shape[0], pixels_HW3.shape[1], settings.short_side_px, settings.max_side_px
    )
    resized = Image.fromarray(pixels_HW3).resize((width, height), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1).float()


def normalise_and_pad(
    image_3HW: Tensor, mean: Sequence[float], std: Sequence[float], multiple: int
) -> Tensor:
    """Centre and scale RGB values in 0..255, then pad right and below with zeros to a multiple; (3, H', W')."""
    shift, scale = (torch.tensor(v, device=image_3HW.device)[:, None, None] for v in (mean, std))
    height, width = image_3HW.shape[-2:]
    return F.pad((image_3HW - shift) / scale, (0, -width % multiple, 0, -height % multiple))


def largest_shares(mask_logits_Khw: Tensor, void_probabilities_K: Tensor) -> Tensor:
    """(K,) the largest share that each segment has of any pixel, in [0, 1].

    A pixel is shared by mask probability times (1 - void probability), the weight a segment has in painting before any
    class is named. Dropping a segment whose share is nowhere large changes few labels and saves its crops.
    """
    weights = mask_logits_Khw.sigmoid() * (1 - void_probabilities_K)[:, None, None]
    return (weights / weights.sum(dim=0).clamp(min=1e-12)).flatten(1).amax(dim=1)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PredictedMasks:
    """Segments before their crops, with what crops are cut from."""

    segments: Segments
    """On the CPU; image embeddings are (K, 0)."""
    resized_3HW: Tensor
    """(3, h, w) float32 RGB in 0..255 at the network's scale, on the device."""
    masks_Khw: Tensor
    """Mask logits on the device."""


def _upsampled(logits_Khw: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(logits_Khw[None], size=size, mode="bilinear", align_corners=False)[0]


class Segmenter:
    """The networks and their device: picture in, segments out.

    Pictures go through the network one at a time, each padded for itself: its segments depend on nothing but itself,
    whatever it is batched with. Crops go through the encoder in passes of bounded size.

    Args:
        network: in evaluation mode.
        encoder: of the image branch; none where the settings switch it off.
        seen_bank_CD: (C, D) unit rows of the classes that were trained on; only read when segments are dropped.
    """

    def __init__(
        self,
        network: ZegFormer,
        encoder: Encoder | None,
        settings: SegmentSettings,
        *,
        device: torch.device,
        seen_bank_CD: Tensor | None = None,
    ) -> None:
        if settings.min_share > 0 and seen_bank_CD is None:
            raise ValueError(
                f"min_share is {settings.min_share}, but there is no bank of seen classes to weigh by"
            )
        if settings.image_branch and encoder is None:
            raise ValueError("the settings ask for the image branch, but there is no image encoder")
        # Channels last is faster for convolutions on either device and differs by rounding.
        self.network = network.to(device=device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        self.encoder = encoder if settings.image_branch else None
        self.settings = settings
        self.device = device
        self.seen_bank_CD = None if seen_bank_CD is None else seen_bank_CD.to(device)

    @torch.inference_mode()
    def segment(self, pictures: Sequence[np.ndarray]) -> list[Segments]:
        """(H, W, 3) uint8 RGB pictures → their segments, on the CPU."""
        return [self._segment(pixels) for pixels in pictures]

    def _segment(self, pixels_HW3: np.ndarray) -> Segments:
        predicted = self.predict_masks(pixels_HW3)
        if self.encoder is None:
            return predicted.segments
        embeddings = self._image_embeddings(
            predicted.resized_3HW, predicted.masks_Khw, predicted.segments.padded_hw
        )
        return replace(predicted.segments, image_embeddings_KE=embeddings.cpu())

    @torch.inference_mode()
    def embed(self, predicted: PredictedMasks, chosen_N: Tensor) -> Tensor:
        """(N, E) embeddings, on the CPU, of the chosen segments (int64 indices) by the image encoder.

        Empty masks make the same crop, whatever the style; only the first of those asked for is encoded.
        """
        masks_Nhw = predicted.masks_Khw[chosen_N.to(self.device)]
        size = predicted.segments.padded_hw
        empty_N = torch.tensor([not bool((_upsampled(mask[None], size) > 0).any()) for mask in masks_Nhw])
        first_empty = empty_N & (empty_N.cumsum(dim=0) == 1)
        kept_N = first_empty | ~empty_N
        rows = self._image_embeddings(predicted.resized_3HW, masks_Nhw[kept_N.to(self.device)], size).cpu()
        return rows[torch.where(empty_N, kept_N.cumsum(0)[first_empty].sum(), kept_N.cumsum(0)) - 1]

    @torch.inference_mode()
    def predict_masks(self, pixels_HW3: np.ndarray) -> PredictedMasks:
        """The segments of a (H, W, 3) uint8 RGB picture before any crop is made: image embeddings are (K, 0)."""
        config = self.network.config
        resized = resize(pixels_HW3, self.settings).to(self.device)
        x = normalise_and_pad(resized, config.image_mean, config.image_std, config.size_divisibility)
        output = self.network(x[None].contiguous(memory_format=torch.channels_last))[-1]
        masks, padded_hw = output.mask_logits_BQhw[0].float(), (x.shape[1], x.shape[2])
        embeddings, void = output.embeddings_BQD[0], output.no_object_logits_BQ[0]
        if self.settings.min_share > 0:
            assert self.seen_bank_CD is not None
            logits = class_logits(output, self.seen_bank_CD, config.temperature)[0]
            shares = largest_shares(masks, logits.softmax(dim=1)[:, -1])
            kept = shares >= min(self.settings.min_share, float(shares.max()))
            masks, embeddings, void = masks[kept], embeddings[kept], void[kept]
        segments = Segments(
            mask_logits_Khw=masks.cpu(),
            query_embeddings_KD=embeddings.cpu(),
            image_embeddings_KE=torch.zeros(len(masks), 0),
            no_object_logits_K=void.cpu(),
            padded_hw=padded_hw,
            resized_hw=(resized.shape[1], resized.shape[2]),
            height=pixels_HW3.shape[0],
            width=pixels_HW3.shape[1],
        )
        return PredictedMasks(segments=segments, resized_3HW=resized, masks_Khw=masks)

    def _image_embeddings(self, resized_3HW: Tensor, masks_Khw: Tensor, padded_hw: tuple[int, int]) -> Tensor:
        """(K, E) embedding of every segment by the image encoder, averaged over crop styles, and with the picture's."""
        encoder = self.encoder
        assert encoder is not None
        multiple = self.network.config.size_divisibility
        image = normalise_and_pad(resized_3HW, encoder.image_mean, encoder.image_std, multiple)
        embeddings = torch.zeros(len(masks_Khw), encoder.image_dim, device=self.device)
        picture, share = None, self.settings.picture_share
        shares = torch.tensor([1 - share, share], device=self.device)
        if share > 0:
            shown = image[:, : resized_3HW.shape[1], : resized_3HW.shape[2]]
            picture = encoder.encode_images(picture_crop(shown, encoder.image_size_px)[None])
        for start in range(0, len(masks_Khw), self.settings.crops_per_pass):
            logits = masks_Khw[start : start + self.settings.crops_per_pass]
            upsampled = _upsampled(logits, padded_hw)
            kept = torch.arange(len(upsampled), device=self.device)
            if not self.settings.crop_empty_masks:
                kept = kept[(upsampled > 0).flatten(1).any(dim=1)]
            rows = segment_embeddings(
                image, upsampled[kept], encoder, self.settings.crop_styles, chunk=len(logits)
            )
            if picture is not None:
                rows = encoder.average_views(torch.stack((rows, picture.expand_as(rows))), shares)
            embeddings[start + kept] = rows.to(self.device)
        return embeddings
