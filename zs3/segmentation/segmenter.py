"""Segmentation: pictures become segments with a mask, an embedding per branch and a `no object` logit each."""

# K segment, D E embedding, H W picture pixels, h w mask cells of stride 4
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from zs3.config import SegmentSettings
from zs3.encoders import Encoder
from zs3.encoders.masked_crops import picture_crop, segment_embeddings
from zs3.nets.zegformer import LayerOutput, ZegFormer, class_logits
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


def max_shares(mask_logits_Khw: Tensor, no_object_K: Tensor) -> Tensor:
    """(K,) the largest share that each segment has of any pixel, in [0, 1].

    A pixel is shared by mask probability times (1 - probability of `no object`), the weight of a segment in the label
    map without regard to classes. Dropping a segment whose shares are all small changes few labels and saves its crops.
    """
    weights = mask_logits_Khw.sigmoid() * (1 - no_object_K)[:, None, None]
    return (weights / weights.sum(dim=0).clamp(min=1e-12)).flatten(1).amax(dim=1)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PredictedMasks:
    """Segments before their crops, and what crops are cut from."""

    segments: Segments
    """On the CPU; image embeddings are (K, 0)."""
    resized_3HW: Tensor
    """(3, h, w) float32 RGB in 0..255 at the network's scale, on the device."""
    masks_Khw: Tensor
    """Mask logits on the device."""
    dense_Chw: Tensor | None = None
    """CLIP's dense map of an FC-CLIP, on the device."""


class Segmenter:
    """The networks and their device.

    Pictures go through the network one at a time, each padded for itself, so that the segments of a picture do not
    depend on its batch. Crops go through the encoder in passes of bounded size.

    Args:
        encoder: of the image branch; None if the settings switch it off.
        seen_bank_CD: (C, D) unit rows of the classes that were trained on; required if `min_share` drops segments.
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
        self.encoder = encoder if settings.image_branch else None
        self.seen_bank_CD = None if seen_bank_CD is None else seen_bank_CD.to(device)
        self._place(network, settings, device)

    def _place(self, network: nn.Module, settings: SegmentSettings, device: torch.device) -> None:
        # Channels last is faster for convolutions on either device and differs by rounding.
        self.network = network.to(device=device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        self.settings = settings
        self.device = device

    @torch.inference_mode()
    def segment(self, pictures: Sequence[np.ndarray]) -> list[Segments]:
        """(H, W, 3) uint8 RGB pictures → their segments, on the CPU."""
        return [self._segment(pixels) for pixels in pictures]

    @property
    def image_dim(self) -> int:
        """Length of the image embeddings; 0 without an image branch."""
        return self.encoder.image_dim if self.encoder else 0

    @property
    def size_divisibility(self) -> int:
        """Pictures are padded to a multiple of this, in pixels."""
        return self.network.config.size_divisibility

    def _segment(self, pixels_HW3: np.ndarray) -> Segments:
        predicted = self.predict_masks(pixels_HW3)
        if not self.image_dim:
            return predicted.segments
        embeddings = self.embed(predicted, predicted.masks_Khw)
        return replace(predicted.segments, image_embeddings_KE=embeddings.cpu())

    @torch.inference_mode()
    def predict_masks(self, pixels_HW3: np.ndarray) -> PredictedMasks:
        """The segments of a (H, W, 3) uint8 RGB picture before any crop is made."""
        config = self.network.config
        resized = resize(pixels_HW3, self.settings).to(self.device)
        x = normalise_and_pad(resized, config.image_mean, config.image_std, config.size_divisibility)
        output, dense_Chw = self._run(x[None].contiguous(memory_format=torch.channels_last))
        masks, padded_hw = output.mask_logits_BQhw[0].float(), (x.shape[1], x.shape[2])
        embeddings, no_object = output.embeddings_BQD[0], output.no_object_logits_BQ[0]
        if self.settings.min_share > 0:
            assert self.seen_bank_CD is not None
            logits = class_logits(output, self.seen_bank_CD)[0]
            shares = max_shares(masks, logits.softmax(dim=1)[:, -1])
            kept = shares >= min(self.settings.min_share, float(shares.max()))
            masks, embeddings, no_object = masks[kept], embeddings[kept], no_object[kept]
        segments = Segments(
            mask_logits_Khw=masks.cpu(),
            query_embeddings_KD=embeddings.cpu(),
            image_embeddings_KE=torch.zeros(len(masks), 0),
            no_object_logits_K=no_object.cpu(),
            padded_hw=padded_hw,
            resized_hw=(resized.shape[1], resized.shape[2]),
            height=pixels_HW3.shape[0],
            width=pixels_HW3.shape[1],
        )
        return PredictedMasks(segments=segments, resized_3HW=resized, masks_Khw=masks, dense_Chw=dense_Chw)

    def _run(self, image_13HW: Tensor) -> tuple[LayerOutput, Tensor | None]:
        """The network's last output, and the dense map that masks are pooled on, if there is one."""
        return self.network(image_13HW)[-1], None

    @torch.inference_mode()
    def embed(self, predicted: PredictedMasks, masks_Khw: Tensor) -> Tensor:
        """(K, E) embeddings, on the device, of masks over a picture by the image encoder.

        They are averaged over the crop styles of the settings and mixed with that of the whole picture.

        Args:
            masks_Khw: logits on the device, over the padded picture at any scale.
        """
        encoder = self.encoder
        assert encoder is not None
        resized, padded_hw = predicted.resized_3HW, predicted.segments.padded_hw
        image = normalise_and_pad(resized, encoder.image_mean, encoder.image_std, self.size_divisibility)
        embeddings = torch.zeros(len(masks_Khw), encoder.image_dim, device=self.device)
        whole, share = None, self.settings.picture_share
        shares = torch.tensor([1 - share, share], device=self.device)
        if share > 0:
            unpadded = image[:, : resized.shape[1], : resized.shape[2]]
            whole = encoder.encode_images(picture_crop(unpadded, encoder.image_size_px)[None])
        for start in range(0, len(masks_Khw), self.settings.crops_per_pass):
            logits = masks_Khw[start : start + self.settings.crops_per_pass]
            upsampled = F.interpolate(logits[None], size=padded_hw, mode="bilinear", align_corners=False)[0]
            kept = torch.arange(len(upsampled), device=self.device)
            if not self.settings.crop_empty_masks:
                kept = kept[(upsampled > 0).flatten(1).any(dim=1)]
            rows = segment_embeddings(image, upsampled[kept], encoder, self.settings.crop_styles)
            if whole is not None:
                rows = encoder.average_views(torch.stack((rows, whole.expand_as(rows))), shares)
            embeddings[start + kept] = rows.to(self.device)
        return embeddings
