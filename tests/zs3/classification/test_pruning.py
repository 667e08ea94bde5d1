"""Pruning leaves out crops and changes no pixel: the laws, on random segments and on real ones."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st
from torch.nn.functional import normalize

from tests.zs3.nets.test_parity import TINY
from zs3.checkpoint import load_checkpoint
from zs3.classification.painting import paint, pixel_scores
from zs3.classification.pruning import SMALLEST, image_bounds, image_range, prune, score_bounds
from zs3.classification.scores import class_scores, query_probabilities
from zs3.config import NamingSettings, SegmentSettings
from zs3.encoders import EncoderConfig, load_encoder
from zs3.inference.labeller import Labeller
from zs3.nets.zegformer import ZegFormer
from zs3.segmentation.segmenter import Segmenter
from zs3.segmentation.segments import Segments
from zs3.vocabulary import load_vocabulary

CPU = torch.device("cpu")

BRANCHES = ["both", "both_own", "both_for_every_class", "query", "image"]
CLASSES, WIDTH = 7, 5
SEEN = torch.arange(CLASSES) % 3 > 0


def random_segments(seed, *, segments=6, sharpness=6.0):
    """Segments with unit rows of width 5, and two text banks of seven classes."""
    draw = torch.Generator().manual_seed(seed)
    normal = lambda *shape: torch.randn(*shape, generator=draw)  # noqa: E731
    banks = normalize(normal(CLASSES, WIDTH)), normalize(normal(CLASSES, WIDTH) + 1)
    return Segments(
        mask_logits_Khw=sharpness * normal(segments, 4, 8),
        query_embeddings_KD=normalize(normal(segments, WIDTH)),
        image_embeddings_KE=normalize(normal(segments, WIDTH)),
        void_logits_K=4 * normal(segments),
        padded_hw=(16, 32),
        resized_hw=(15, 21),
        height=19,
        width=27,
    ), banks


def arguments(banks, settings, image_scale=3.0):
    scales = {"query_logit_scale": 8.0, "image_logit_scale": image_scale}
    return (*banks, SEEN, settings), scales


settings_strategy = st.builds(
    NamingSettings,
    branches=st.sampled_from(BRANCHES),
    weight=st.sampled_from([0.0, 1 / 3, 2 / 3, 1.0]) | st.floats(0, 1),
    calibration=st.sampled_from([0.0, 0.1, 0.5]),
    query_temperature=st.sampled_from([1.0, 2.0]),
    void_in_image_softmax=st.booleans(),
    resize_first=st.booleans(),
)


@given(
    seed=st.integers(0, 2**32 - 1),
    settings=settings_strategy,
    image_scale=st.sampled_from([0.1, 1.0, 5.0, 100.0]),
    sharpness=st.sampled_from([1.0, 6.0, 40.0]),
)
def test_pruned_label_maps_are_those_of_the_plain_procedure(seed, settings, image_scale, sharpness):
    segments, banks = random_segments(seed, sharpness=sharpness)
    positional, scales = arguments(banks, settings, image_scale)
    scores = class_scores(segments, *positional, **scales)
    plain = pixel_scores(segments, scores, SEEN, settings).argmax(dim=0)
    pruned = prune(segments, lambda index: segments.image_embeddings_KE[index], *positional, **scales)
    assert torch.equal(paint(segments, pruned.scores_KC, SEEN, settings)[0], plain)
    assert torch.equal(pruned.scores_KC[pruned.encoded_K], scores[pruned.encoded_K])


@given(seed=st.integers(0, 2**32 - 1), settings=settings_strategy, other=st.integers(0, 2**32 - 1))
def test_whatever_the_encoder_would_have_said_of_the_others_no_pixel_changes(seed, settings, other):
    segments, banks = random_segments(seed)
    positional, scales = arguments(banks, settings, 0.5)
    pruned = prune(segments, lambda index: segments.image_embeddings_KE[index], *positional, **scales)
    drawn = normalize(torch.randn(6, WIDTH, generator=torch.Generator().manual_seed(other)))
    swapped = torch.where(pruned.encoded_K[:, None], segments.image_embeddings_KE, drawn)
    scores = class_scores(replace(segments, image_embeddings_KE=swapped), *positional, **scales)
    labels, _ = paint(segments, scores, SEEN, settings)
    assert torch.equal(paint(segments, pruned.scores_KC, SEEN, settings)[0], labels)


@given(seed=st.integers(0, 2**32 - 1), settings=settings_strategy, image_scale=st.floats(0.01, 100))
@example(  # a probability of 2e-45, which float32 rounds to 1.4e-45, and whose power 0.0625 is 2e-3
    seed=0, settings=NamingSettings(weight=0.0625, void_in_image_softmax=False), image_scale=89.0
)
def test_every_probability_and_score_lies_within_its_bounds(seed, settings, image_scale):
    segments, banks = random_segments(seed, segments=40)
    # The bounds are attained by rows that lie along differences of text rows, which no random row does.
    differences = normalize((banks[1][:, None] - banks[1][None]).flatten(0, 1) + 1e-6)[:40]
    segments = replace(segments, image_embeddings_KE=differences)
    positional, scales = arguments(banks, settings, image_scale)
    reach = image_range(banks[1], image_scale)
    by_query = query_probabilities(segments, banks[0], settings, query_logit_scale=8.0)
    low, high = score_bounds(by_query, reach, segments.void_logits_K, SEEN, settings)
    if settings.branches != "query":
        scores = class_scores(segments, *positional, **scales)
        assert (scores >= low - SMALLEST).all() and (scores <= high + SMALLEST).all()
    least, most = image_bounds(reach, segments.void_logits_K, settings)
    image = class_scores(segments, *banks, SEEN, replace(settings, branches="image"), **scales)
    # Underflow aside, what is allowed here is the last place of a float32.
    assert (image >= least * (1 - 1e-5) - 1e-30).all() and (image <= most * (1 + 1e-5)).all()


def test_the_query_branch_alone_needs_no_crop():
    segments, banks = random_segments(0)
    positional, scales = arguments(banks, NamingSettings(branches="query"))
    pruned = prune(segments, lambda index: pytest.fail("a crop was asked for"), *positional, **scales)
    assert not pruned.encoded_K.any()


def test_where_one_segment_holds_every_pixel_the_others_are_not_encoded():
    segments, banks = random_segments(1)
    masks = torch.full((6, 4, 8), -40.0)
    masks[2] = 40.0
    positional, scales = arguments(banks, NamingSettings())
    alone = replace(segments, mask_logits_Khw=masks)
    pruned = prune(alone, lambda index: segments.image_embeddings_KE[index], *positional, **scales)
    assert pruned.encoded_K.nonzero().flatten().tolist() == [2]


def test_two_classes_of_the_same_name_are_a_tie_that_encodes_everything():
    segments, (query_bank, image_bank) = random_segments(2)
    twins = query_bank.clone(), image_bank.clone()
    for bank in twins:
        bank[1:] = bank[1]
    positional, scales = arguments(twins, NamingSettings(branches="both_for_every_class"))
    pruned = prune(segments, lambda index: segments.image_embeddings_KE[index], *positional, **scales)
    scores = class_scores(segments, *positional, **scales)
    assert pruned.encoded_K.all() and torch.equal(pruned.scores_KC, scores)


@given(seed=st.integers(0, 2**32 - 1), settings=settings_strategy)
def test_the_order_of_segments_and_the_height_of_strips_change_no_label(seed, settings):
    assume(not 0 < settings.weight < 1e-3)  # all seen classes would score alike to rounding
    segments, banks = random_segments(seed)
    positional, scales = arguments(banks, settings)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(seed))
    shuffled = replace(
        segments,
        mask_logits_Khw=segments.mask_logits_Khw[order],
        query_embeddings_KD=segments.query_embeddings_KD[order],
        image_embeddings_KE=segments.image_embeddings_KE[order],
        void_logits_K=segments.void_logits_K[order],
    )
    one = prune(segments, lambda index: segments.image_embeddings_KE[index], *positional, **scales)
    two = prune(
        shuffled, lambda index: shuffled.image_embeddings_KE[index], *positional, **scales, strip_rows=3
    )
    labels = [paint(s, p.scores_KC, SEEN, settings)[0] for s, p in ((segments, one), (shuffled, two))]
    # Sums over segments in another order tie otherwise; twins within rounding are rarer than the examples drawn.
    assert torch.equal(*labels)


def test_empty_masks_are_encoded_once_and_the_chosen_rows_are_those_of_the_whole(shared):
    encoder = load_encoder(
        EncoderConfig(
            kind="open_clip", weights=str(shared / "reference/fixtures/tiny/clip_openai_names.pth")
        ),
        device=CPU,
    )
    torch.manual_seed(0)
    segmenter = Segmenter(
        ZegFormer(TINY), encoder, SegmentSettings(short_side_px=64, max_side_px=128), device=CPU
    )
    picture = np.random.default_rng(0).integers(0, 256, (50, 60, 3), dtype=np.uint8)
    grouped = segmenter.group(picture)
    masks = grouped.masks_Khw.clone()
    masks[[1, 3, 4]] = -1.0
    grouped = replace(grouped, masks_Khw=masks)
    every = segmenter._image_embeddings(grouped.resized_3HW, masks, grouped.segments.padded_hw)
    for chosen in ([3, 0, 1, 2, 4], [2, 0], [4], [4, 1]):
        rows = segmenter.embed(grouped, torch.tensor(chosen))
        # 1e-7 measured: crops in a pass of another size. Another segment's row is off by 1e-2 and more.
        torch.testing.assert_close(rows, every[chosen], atol=1e-5, rtol=0)


@pytest.mark.parametrize("record", ["img0", "img2", "img3"])
@pytest.mark.parametrize("branches", ["both", "both_for_every_class", "image"])
def test_recorded_pictures_keep_their_recorded_label_maps(shared, record, branches):
    folder = shared / "reference/fixtures/tiny"
    numbers = np.load(folder / f"{record}.npz")
    texts = np.load(folder / "text_features.npz")
    features = torch.from_numpy(numbers["clip_image_feat"]).float()
    logits = torch.from_numpy(numbers["pred_logits"]).float()
    bank = torch.from_numpy(texts["test_clip"]).float()
    segments = Segments(
        mask_logits_Khw=torch.from_numpy(numbers["pred_masks"]).float(),
        query_embeddings_KD=logits[:, :-1],
        image_embeddings_KE=normalize(features),
        void_logits_K=logits[:, -1],
        padded_hw=tuple(int(v) for v in numbers["padded_hw"]),
        resized_hw=numbers["image_resized"].shape[1:],
        height=int(numbers["height"]),
        width=int(numbers["width"]),
    )
    seen, settings = torch.arange(20) < 15, NamingSettings(branches=branches, calibration=0.1)
    scales = (
        {"query_logit_scale": 1.0, "image_logit_scale": float(numbers["clip_logit_scale"])}
        if ("clip_logit_scale" in numbers)
        else {"query_logit_scale": 1.0, "image_logit_scale": 100.0}
    )
    banks = torch.eye(20), bank
    scores = class_scores(segments, *banks, seen, settings, **scales)
    plain = pixel_scores(segments, scores, seen, settings).argmax(dim=0)
    pruned = prune(
        segments, lambda index: segments.image_embeddings_KE[index], *banks, seen, settings, **scales
    )
    assert torch.equal(paint(segments, pruned.scores_KC, seen, settings)[0], plain)


@pytest.mark.parametrize("photograph", ["astronaut", "chelsea"])
def test_the_shipped_model_labels_photographs_alike_with_and_without_pruning(photograph):
    picture = getattr(pytest.importorskip("skimage.data"), photograph)()
    checkpoint = load_checkpoint("zs3-mini")
    plain = replace(
        checkpoint.recipe.segmenting, short_side_px=192, min_share=0.0, crop_styles=("crop_and_mask",)
    )
    maps = [
        Labeller(checkpoint, load_vocabulary("voc"), device=CPU, segmenting=settings).label([picture])[0]
        for settings in (plain, replace(plain, prune="exact"))
    ]
    assert np.array_equal(maps[0][0], maps[1][0])
    assert all(maps[1][1][key] <= maps[0][1][key] + 1e-5 for key in maps[0][1])
