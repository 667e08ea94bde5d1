"""Pictures become the recorded segments, end to end, and nothing but the picture decides them."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.support.parity import SMALL, TINY, released_state
from zs3.classification.scores import class_scores
from zs3.classification.semantic_map import semantic_map
from zs3.config import NamingSettings, SegmentSettings
from zs3.convert.zegformer_names import from_released
from zs3.encoders.masked_crops import picture_crop
from zs3.nets.zegformer import ZegFormer
from zs3.segmentation.segmenter import Segmenter, max_shares, normalise_and_pad, resize, resized_size

CPU = torch.device("cpu")


PICTURE = SMALL("network")["img3/image"]
BANK = torch.from_numpy(SMALL("network")["text/test"])


@pytest.fixture(scope="module")
def published(recorded_encoder):
    network = ZegFormer(TINY).eval()
    network.load_state_dict(from_released(released_state("zegformer")), strict=True)
    return network, recorded_encoder


def settings(short_side_px):
    return SegmentSettings(short_side_px=short_side_px, max_side_px=512)


def test_a_picture_ends_in_the_recorded_label_map(published, recordings):
    (network, encoder), recording = published, recordings("network")
    segments = Segmenter(network, encoder, settings(64), device=CPU).segment([recording["img3/image"]])[0]
    assert segments.padded_hw == tuple(recording["img3/padded_hw"])
    # Noise of the published code itself on this picture is 2.5e-4 on logits of ±40; no mask flips below 2e-3.
    assert recording.worst("img3/pred_masks", segments.mask_logits_Khw) < 1e-3
    # Unit vectors of 512 numbers: measured 2e-7; another crop moves 1e-3.
    assert recording.worst("img3/clip_image_feat", segments.image_embeddings_KE) < 1e-5
    seen = torch.arange(20) < 15
    naming = NamingSettings(calibration=0.1)
    scores = class_scores(
        segments,
        torch.from_numpy(recording["text/test"]),
        torch.from_numpy(recording["text/test_clip"]),
        seen,
        naming,
        query_logit_scale=1 / TINY.temperature,
        image_logit_scale=encoder.logit_scale,
    )
    assert recording.worst("img3/mask_cls", scores) < 1e-5
    labels, _ = semantic_map(segments, scores, seen, naming)
    assert int((labels.numpy() != recording["img3/argmax"]).sum()) <= 2


@pytest.mark.parametrize(
    ("name", "record", "number", "short_side_px"),
    [("network", "img0/", "", 128), ("network", "img2/", "", 128), ("network", "img3/", "", 64),
     ("handmade", "", "0", 128), ("handmade", "", "1", 128)],
)  # fmt: skip
def test_resizing_and_padding_are_bit_exact(recordings, name, record, number, short_side_px):
    recording = recordings(name)
    resized = resize(recording[f"{record}image{number}"], settings(short_side_px))
    assert recording.equals(f"{record}image_resized{number}", resized.numpy())
    if not number:  # the two handmade ones are padded to the larger one
        padded = normalise_and_pad(resized, TINY.image_mean, TINY.image_std, TINY.size_divisibility)
        assert padded.shape[1:] == tuple(recording[f"{record}padded_hw"])


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((480, 640), (640, 853)),
        ((640, 480), (853, 640)),
        ((100, 1000), (256, 2560)),
        ((1, 1), (640, 640)),
        ((1, 5000), (1, 2560)),
    ],
)
def test_sizes_follow_the_shorter_side_until_the_longer_one_is_too_long(size, expected):
    assert resized_size(*size, 640, 2560) == expected


def test_a_picture_has_the_same_segments_whatever_it_is_batched_with(published):
    network, encoder = published
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in ((40, 60), (90, 30), (1, 1))]
    segmenter = Segmenter(network, encoder, settings(64), device=CPU)
    together = segmenter.segment(pictures)
    for picture, segments in zip(pictures, together):
        alone = segmenter.segment([picture])[0]
        assert torch.equal(alone.mask_logits_Khw, segments.mask_logits_Khw)
        assert torch.equal(alone.image_embeddings_KE, segments.image_embeddings_KE)
        assert (segments.height, segments.width) == picture.shape[:2]


def test_padding_comes_after_normalising_and_is_zero():
    padded = normalise_and_pad(torch.full((3, 33, 64), 255.0), (0.0, 0.0, 0.0), (255.0, 255.0, 255.0), 32)
    assert padded.shape == (3, 64, 64)
    assert float(padded[:, :33].min()) == 1.0 and float(padded[:, 33:].abs().max()) == 0.0


def test_an_image_branch_without_an_encoder_is_refused(published):
    network, _ = published
    with pytest.raises(ValueError, match="no image encoder"):
        Segmenter(network, None, settings(64), device=CPU)


def test_the_whole_picture_has_its_share_in_the_embedding_of_every_segment(published):
    network, encoder = published
    alone = Segmenter(network, encoder, settings(64), device=CPU).segment([PICTURE])[0]
    surrounded = replace(settings(64), picture_share=0.25)
    with_picture = Segmenter(network, encoder, surrounded, device=CPU).segment([PICTURE])[0]
    resized = resize(PICTURE, surrounded)
    image = normalise_and_pad(resized, encoder.image_mean, encoder.image_std, 1)
    whole = encoder.encode_images(picture_crop(image, encoder.image_size_px)[None])
    expected = torch.nn.functional.normalize(0.75 * alone.image_embeddings_KE + 0.25 * whole, dim=1)
    # Batches of another size move the last bits; a share off by 0.01 moves an embedding by 1e-3 and more.
    assert torch.allclose(with_picture.image_embeddings_KE, expected, atol=1e-5)
    assert torch.equal(with_picture.query_embeddings_KD, alone.query_embeddings_KD)


def test_a_segment_counts_by_its_largest_share_of_any_pixel():
    logits = torch.tensor([[[9.0, -9.0]], [[0.0, -9.0]], [[9.0, 9.0]]])
    shares = max_shares(logits, torch.tensor([0.0, 0.0, 1.0]))
    assert float(shares[0]) == pytest.approx(2 / 3, abs=0.01), "sure of a pixel that another half claims"
    assert float(shares[2]) == 0.0, "no object, however sure its mask"


def test_dropping_segments_keeps_the_others_as_they_were(published):
    network, encoder = published
    every = Segmenter(network, encoder, settings(64), device=CPU).segment([PICTURE])[0]
    some = replace(settings(64), min_share=0.2)
    kept = Segmenter(network, encoder, some, device=CPU, seen_bank_CD=BANK[:15]).segment([PICTURE])[0]
    assert 0 < len(kept.no_object_logits_K) < len(every.no_object_logits_K)
    places = [int((every.no_object_logits_K == void).nonzero()[0]) for void in kept.no_object_logits_K]
    assert torch.equal(every.mask_logits_Khw[places], kept.mask_logits_Khw)
    torch.testing.assert_close(every.image_embeddings_KE[places], kept.image_embeddings_KE)
    with pytest.raises(ValueError, match="no bank of seen classes"):
        Segmenter(network, encoder, some, device=CPU)
