"""Naming equals the published procedure on recorded numbers, and keeps its laws on random ones."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.support.pixel_scores import labels_and_probabilities, pixel_scores
from zs3.classification.classifier import mean_score_map
from zs3.classification.fusion import fuse
from zs3.classification.scores import class_scores
from zs3.classification.semantic_map import candidate_classes, probabilities, semantic_map
from zs3.config import NamingSettings
from zs3.segmentation.segmenter import resized_size
from zs3.segmentation.segments import Segments

MODES = {
    "img0": NamingSettings(calibration=0.1),
    "mode_seg_only_img0": NamingSettings(branches="query"),
    "mode_img_only_img0": NamingSettings(branches="image"),
    "mode_ens_all_img0": NamingSettings(branches="both_for_every_class", calibration=0.1),
    "mode_style_crop_img0": NamingSettings(calibration=0.1),
    "mode_resize_first_img0": NamingSettings(calibration=0.1, resize_first=True),
    "mode_prompts_select_img0": NamingSettings(calibration=0.1),
    "img2": NamingSettings(calibration=0.1),
    "img3": NamingSettings(calibration=0.1),
}
RECORDED_MODES = [("small", mode) for mode in MODES if mode != "img2"] + [("full", mode) for mode in MODES]
"""The small set has no masks of img2."""
SEEN = torch.arange(20) < 15


def random_segments(seed, *, segments=5, classes=7, size=(37, 53)):
    """Segments whose embeddings are logits already: banks are the identity and scales 1."""
    draw = torch.Generator().manual_seed(seed)
    normal = lambda *shape: torch.randn(*shape, generator=draw)  # noqa: E731
    return Segments(
        mask_logits_Khw=3 * normal(segments, 8, 16),
        query_embeddings_KD=2 * normal(segments, classes),
        image_embeddings_KE=2 * normal(segments, classes),
        no_object_logits_K=normal(segments),
        padded_hw=(32, 64),
        resized_hw=(30, 43),
        height=size[0],
        width=size[1],
    )


def scores_of(segments, settings, seen):
    identity = torch.eye(len(seen))
    return class_scores(
        segments, identity, identity, seen, settings, query_logit_scale=1.0, image_logit_scale=1.0
    )


def clear(segments, scores, seen, settings, lead=1e-5):
    """(H, W) bool: pixels whose best class leads the next one by more than sums of another order can differ."""
    first, second = pixel_scores(segments, scores, seen, settings).topk(2, dim=0).values
    return first - second > lead * first.abs()


def recorded(recording, record):
    """Segments that carry the recorded logits of both branches; what a mode does not record is that of img0."""

    def values(key):
        name = f"{record}/{key}" if f"{record}/{key}" in recording else f"img0/{key}"
        return torch.from_numpy(recording[name])

    picture = "img0" if record.startswith("mode") else record
    short_side_px = 64 if picture == "img3" else 128
    height, width = recording[f"{picture}/image"].shape[:2]
    logits = values("pred_logits").float()
    return Segments(
        mask_logits_Khw=values("pred_masks").float(),
        query_embeddings_KD=logits[:, :-1],
        image_embeddings_KE=values("clip_logits").float(),
        no_object_logits_K=logits[:, -1],
        padded_hw=tuple(values("padded_hw").tolist()),
        resized_hw=resized_size(height, width, short_side_px, 512),
        height=height,
        width=width,
    )


@pytest.mark.parametrize(("recordings", "record"), RECORDED_MODES, indirect=["recordings"])
def test_every_fusion_mode_gives_the_recorded_scores_and_label_map(recordings, record):
    recording, settings = recordings("network"), MODES[record]
    segments = recorded(recording, record)
    scores = scores_of(segments, settings, SEEN)
    fused = torch.from_numpy(recording[f"{record}/mask_cls"])
    if fused.shape[1] == 21:  # a branch alone was recorded as logits, `no object` last
        fused = fused.softmax(dim=1)[:, :-1]
    # 6e-8 measured: one rounding of float32. Leaving out the mean over seen classes moves 1e-2.
    assert float((scores - fused).abs().max()) < 2e-6
    # 4e-6 measured; a half-pixel shift of the masks moves 1e-1, leaving out γ moves 0.1.
    assert recording.worst(f"{record}/sem_seg", pixel_scores(segments, scores, SEEN, settings)) < 2e-5
    labels, _ = semantic_map(segments, scores, SEEN, settings, strip_rows=17)
    # Where two classes tie to rounding either may win: at most 2 pixels between independent implementations.
    assert int((labels != torch.from_numpy(recording[f"{record}/argmax"]).long()).sum()) <= 2


@pytest.mark.parametrize(
    ("recordings", "record"),
    [("small", "img0"), ("full", "img0"), ("full", "img2")],
    indirect=["recordings"],
)
def test_scores_on_the_padded_grid_are_those_recorded(recordings, record):
    segments = recorded(recordings("network"), record)
    height, width = segments.padded_hw
    padded = replace(segments, resized_hw=segments.padded_hw, height=height, width=width)
    scores = scores_of(padded, NamingSettings(), SEEN)
    volume = pixel_scores(padded, scores, SEEN, NamingSettings())
    # As above; this one would show a mask that is resized to the picture instead of to the padded input.
    assert recordings("network").worst(f"{record}/semseg_padded", volume) < 2e-5


@pytest.mark.parametrize("style", ["cropmask", "crop", "mask"])
@pytest.mark.parametrize("index", [0, 1])
def test_handmade_masks_of_every_crop_style_give_the_recorded_scores(recordings, index, style):
    handmade = recordings("handmade")
    logits = torch.from_numpy(handmade["pred_logits"][index]).float()
    height, width = handmade[f"image{index}"].shape[:2]
    segments = Segments(
        mask_logits_Khw=torch.from_numpy(handmade["pred_masks"][index]).float(),
        query_embeddings_KD=logits[:, :-1],
        image_embeddings_KE=torch.from_numpy(handmade[f"{style}/clip_logits{index}"]).float(),
        no_object_logits_K=logits[:, -1],
        padded_hw=tuple(handmade["padded_hw"].tolist()),
        resized_hw=resized_size(height, width, 128, 512),
        height=height,
        width=width,
    )
    settings = NamingSettings(calibration=0.1)
    scores = scores_of(segments, settings, SEEN)
    assert handmade.worst(f"{style}/mask_cls{index}", scores) < 2e-6
    # Both pictures share one padded size here, that of the larger: padding taken for picture moves 1e-2.
    assert handmade.worst(f"{style}/sem_seg{index}", pixel_scores(segments, scores, SEEN, settings)) < 2e-5


@pytest.mark.parametrize("resize_first", [False, True])
@pytest.mark.parametrize("strip_rows", [1, 7, 36, 37, 500])
def test_the_height_of_a_strip_changes_no_pixel(strip_rows, resize_first):
    segments = random_segments(3)
    settings = NamingSettings(calibration=0.05, resize_first=resize_first)
    seen = torch.arange(7) < 4
    scores = scores_of(segments, settings, seen)
    expected, best = labels_and_probabilities(segments, scores, seen, settings)
    labels, painted = semantic_map(segments, scores, seen, settings, strip_rows=strip_rows)
    assert torch.equal(labels, expected)
    torch.testing.assert_close(painted, best, rtol=0, atol=1e-6)


def test_strips_paint_what_plain_torch_resizing_paints():
    segments = random_segments(4)
    seen = torch.arange(7) < 4
    scores = scores_of(segments, NamingSettings(), seen)
    grow = torch.nn.functional.interpolate
    masks = grow(segments.mask_logits_Khw[None], size=(32, 64), mode="bilinear", align_corners=False)[
        0
    ].sigmoid()
    volume = torch.einsum("kc,khw->chw", scores, masks)[:, :30, :43]
    plain = grow(volume[None], size=(37, 53), mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(
        pixel_scores(segments, scores, seen, NamingSettings()), plain, rtol=0, atol=2e-6
    )


@given(
    seed=st.integers(0, 1000),
    branches=st.sampled_from(["both", "both_own", "both_for_every_class", "query", "image"]),
)
def test_permuting_classes_permutes_scores(seed, branches):
    segments, naming = random_segments(seed), NamingSettings(branches=branches)
    order = torch.randperm(7, generator=torch.Generator().manual_seed(seed))
    seen = torch.arange(7) < 4
    shuffled = replace(
        segments,
        query_embeddings_KD=segments.query_embeddings_KD[:, order],
        image_embeddings_KE=segments.image_embeddings_KE[:, order],
    )
    torch.testing.assert_close(
        scores_of(shuffled, naming, seen[order]), scores_of(segments, naming, seen)[:, order]
    )


def test_fusion_leans_on_the_branch_that_was_trained_for_the_class():
    by_query, by_image = torch.tensor([[0.9, 0.1]]), torch.tensor([[0.2, 0.8]])
    seen = torch.tensor([True, False])
    fused = fuse(by_query, by_image, seen, weight=2 / 3)
    assert float(fused[0, 0]) == pytest.approx(0.9 ** (2 / 3) * 0.2 ** (1 / 3))
    assert float(fused[0, 1]) == pytest.approx(0.1 ** (1 / 3) * 0.8 ** (2 / 3))
    assert torch.equal(fuse(by_query, by_image, seen, weight=1.0)[:, 0], by_query[:, 0])


def test_a_larger_calibration_never_gives_a_pixel_to_a_seen_class():
    segments, seen = random_segments(9), torch.arange(7) < 4
    scores = scores_of(segments, NamingSettings(), seen)
    before, _ = semantic_map(segments, scores, seen, NamingSettings(calibration=0.0))
    after, _ = semantic_map(segments, scores, seen, NamingSettings(calibration=0.1))
    assert not bool((~seen[before] & seen[after]).any())
    assert int(seen[after].sum()) < int(seen[before].sum())


def test_without_seen_classes_the_image_branch_leads_everywhere():
    segments = random_segments(11)
    nobody = torch.zeros(7, dtype=torch.bool)
    both = scores_of(segments, NamingSettings(branches="both"), nobody)
    assert torch.equal(both, scores_of(segments, NamingSettings(branches="both_for_every_class"), nobody))


def test_a_segment_that_is_no_object_scores_low_for_every_class():
    segments = random_segments(12)
    void = replace(segments, no_object_logits_K=segments.no_object_logits_K + 100)
    assert float(scores_of(void, NamingSettings(), torch.arange(7) < 4).max()) < 1e-6


@given(seed=st.integers(0, 2**32 - 1), calibration=st.sampled_from([0.0, 0.2]), resize_first=st.booleans())
def test_classes_that_cannot_win_are_left_out_and_nothing_changes(seed, calibration, resize_first):
    segments, seen = random_segments(seed, segments=3, classes=9), torch.arange(9) % 3 > 0
    settings = NamingSettings(calibration=calibration, resize_first=resize_first)
    scores = scores_of(segments, settings, seen)
    scores[:, 8] = scores[:, 7] / 2  # both seen
    left = candidate_classes(scores, seen if calibration else torch.zeros_like(seen))
    assert 8 not in left
    index, best = semantic_map(segments, scores, seen, settings)
    plain, shares = labels_and_probabilities(segments, scores, seen, settings)
    assert torch.equal(index, plain)
    # The same sums of at most 3 products in another order of additions: a few units in the last place of numbers below
    # 1. A whole without the classes that were left out would be smaller by their scores, which are random.
    torch.testing.assert_close(best, shares, atol=1e-6, rtol=0)


@given(
    seed=st.integers(0, 2**32 - 1),
    branches=st.sampled_from(["both", "both_own", "both_for_every_class", "query", "image"]),
    calibration=st.sampled_from([-0.5, 0.0, 0.3]),
)
def test_the_score_of_a_region_is_a_probability_however_many_masks_overlap(seed, branches, calibration):
    """Sums of class score times mask probability grow with the masks that overlap, and γ moves them."""
    segments, seen = random_segments(seed, segments=12), torch.arange(7) < 4
    segments = replace(segments, mask_logits_Khw=segments.mask_logits_Khw.abs())
    settings = NamingSettings(branches=branches, calibration=calibration)
    scores = scores_of(segments, settings, seen)
    assert float(pixel_scores(segments, scores, seen, settings).max()) > 1 or branches != "image"
    index, best = semantic_map(segments, scores, seen, settings)
    _, regions = mean_score_map(index, best, np.arange(7, dtype=np.int32))
    assert float(best.min()) > 0 and float(best.max()) <= 1
    expected = labels_and_probabilities(segments, scores, seen, settings)[1]
    assert regions == pytest.approx({c: float(expected[index == c].mean()) for c in regions}, abs=1e-6)


def test_a_class_without_a_rival_has_the_probability_one():
    segments, seen = random_segments(2, segments=9), torch.arange(7) < 4
    scores = torch.zeros(9, 7)
    scores[:, 5] = torch.rand(9, generator=torch.Generator().manual_seed(0))
    index, best = semantic_map(segments, scores, seen, NamingSettings())
    assert (index == 5).all() and float(best.max()) <= 1
    torch.testing.assert_close(best, torch.ones(37, 53), atol=1e-6, rtol=0)


def test_where_no_segment_reaches_the_first_class_wins_as_without_pruning():
    segments = random_segments(0, segments=2, classes=4)
    nowhere = replace(segments, mask_logits_Khw=torch.full((2, 8, 16), -200.0))
    seen, scores = torch.tensor([True, False, True, False]), torch.tensor([[0.1, 0.2, 0.3, 0.4]] * 2)
    for calibration, expected in ((0.0, 0), (0.1, 1)):
        index, best = semantic_map(nowhere, scores, seen, NamingSettings(calibration=calibration))
        assert (index == expected).all() and not best.any()


def test_probabilities_have_the_same_bits_for_any_number_of_threads():
    logits, threads = (
        8 * torch.randn(999_983, generator=torch.Generator().manual_seed(0)),
        torch.get_num_threads(),
    )
    try:
        drawn = [torch.set_num_threads(number) or probabilities(logits) for number in (1, 2, 3, 7)]
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(drawn[0], other) for other in drawn[1:])
    # One unit in the last place of numbers below 1; a wrong formula is off by more somewhere.
    torch.testing.assert_close(drawn[0], logits.sigmoid(), atol=1.2e-7, rtol=0)
    assert probabilities(torch.tensor([-500.0, 500.0])).tolist() == [0.0, 1.0]


@pytest.mark.parametrize("resize_first", [False, True])
def test_painting_has_the_same_bits_for_any_number_of_threads(resize_first):
    segments, seen = random_segments(1, segments=5, classes=9, size=(129, 333)), torch.arange(9) < 5
    settings, threads = NamingSettings(resize_first=resize_first), torch.get_num_threads()
    scores = torch.rand(5, 9, generator=torch.Generator().manual_seed(1))
    painted = []
    try:
        for number in (1, 2, 3, 8):
            torch.set_num_threads(number)
            painted.append(semantic_map(segments, scores, seen, settings))
    finally:
        torch.set_num_threads(threads)
    for labels, best in painted[1:]:
        assert torch.equal(labels, painted[0][0]) and torch.equal(best, painted[0][1])


@given(seed=st.integers(0, 2**32 - 1), low=st.floats(-4, 3))
def test_a_class_that_takes_little_changes_no_label_that_was_clear(seed, low):
    """Under a softmax a new class takes its share from all, more in some segments than in others, so that even a class
    that wins nowhere may tip a pixel. But where its share of every segment is at most a, scores of the others fall by
    at most the factor 1 - a: a pixel whose best class leads by more, and which the new one does not win, keeps its
    label."""
    segments, seen = random_segments(seed, classes=6), torch.arange(6) < 3
    settings = NamingSettings(branches="query")
    grown = torch.cat([segments.query_embeddings_KD, segments.query_embeddings_KD[:, :1] * 0 + low], dim=1)
    more = replace(segments, query_embeddings_KD=grown)
    before, after = scores_of(segments, settings, seen), scores_of(more, settings, torch.arange(7) < 3)
    share = float(after[:, 6].max())
    plain = pixel_scores(segments, before, seen, settings)
    first, second = plain.topk(2, dim=0).values
    labels, _ = semantic_map(more, after, torch.arange(7) < 3, settings)
    clear = (first * (1 - share) > second * (1 + 1e-5)) & (labels != 6)
    assert torch.equal(labels[clear], plain.argmax(dim=0)[clear])
    if low == -4:
        assert clear.any()


@given(
    seed=st.integers(0, 2**32 - 1),
    place=st.integers(0, 6),
    marked_seen=st.booleans(),
    calibration=st.sampled_from([0.0, 0.2]),
    branches=st.sampled_from(["query", "image", "both", "both_own", "both_for_every_class"]),
)
def test_a_class_without_any_share_changes_no_label(seed, place, marked_seen, calibration, branches):
    """Wherever in the list it stands. Under `both`, a seen one would lower the mean that all seen classes share, so
    there it is unseen."""
    segments, seen = random_segments(seed, classes=6), torch.arange(6) < 3
    settings = NamingSettings(branches=branches, calibration=calibration)
    others = torch.tensor([index for index in range(7) if index != place])
    wider = lambda rows: torch.full((len(rows), 7), -300.0).index_copy_(1, others, rows)  # noqa: E731
    more = replace(
        segments,
        query_embeddings_KD=wider(segments.query_embeddings_KD),
        image_embeddings_KE=wider(segments.image_embeddings_KE),
    )
    also = torch.full((7,), marked_seen and branches != "both").index_copy_(0, others, seen)
    before, after = scores_of(segments, settings, seen), scores_of(more, settings, also)
    # exp(-300) is 0 in float32, so only the order of a sum of 8 shares may differ: some units in the last place.
    torch.testing.assert_close(after[:, others], before, atol=1e-6, rtol=0)
    sure = clear(segments, before, seen, settings)
    labels, _ = semantic_map(segments, before, seen, settings)
    grown, _ = semantic_map(more, after, also, settings)
    assert torch.equal(grown[sure], others[labels][sure])
    assert sure.float().mean() > 0.99


def test_scores_that_are_not_finite_are_refused_once_for_a_picture():
    segments, seen = random_segments(0), torch.ones(7, dtype=torch.bool)
    broken = segments.query_embeddings_KD.clone()
    broken[2, 1] = float("nan")
    with pytest.raises(
        ValueError, match="7 of 35 class scores are not finite, the first of segment 2 and class number 0"
    ):
        scores_of(replace(segments, query_embeddings_KD=broken), NamingSettings(branches="query"), seen)
    masks = segments.mask_logits_Khw.clone()
    masks[:] = float("nan")
    index, best = semantic_map(
        replace(segments, mask_logits_Khw=masks), torch.ones(5, 7), seen, NamingSettings(branches="query")
    )
    with pytest.raises(ValueError, match="1961 of 1961 pixels are not finite, the first at row 0, column 0"):
        mean_score_map(index, best, np.arange(7, dtype=np.int32))
