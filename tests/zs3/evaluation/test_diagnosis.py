"""With grouping or naming done right, the numbers say what the other half lost."""

import numpy as np
import torch

from zs3.classification.semantic_map import semantic_map
from zs3.config import NamingSettings
from zs3.evaluation.diagnosis import mask_pixels, regions, true_names
from zs3.segmentation.segments import Segments

IDS = [3, 7]


def halves():
    """Two segments that cover the left and the right half of an 8x8 picture."""
    logits = torch.full((2, 2, 2), -9.0)
    logits[0, :, 0], logits[1, :, 1] = 9.0, 9.0
    return Segments(
        mask_logits_Khw=logits,
        query_embeddings_KD=torch.eye(2),
        image_embeddings_KE=torch.zeros(2, 0),
        no_object_logits_K=torch.zeros(2),
        padded_hw=(8, 8),
        resized_hw=(8, 8),
        height=8,
        width=8,
    )


def truth():
    labels = np.full((8, 8), 255)
    labels[1:, :4], labels[1:, 4:] = 7, 3
    return labels


def test_segments_take_the_name_that_most_of_their_pixels_truly_have():
    scores = true_names(halves(), truth(), IDS)
    assert scores.tolist() == [[0.0, 1.0], [1.0, 0.0]]
    painted, _ = semantic_map(halves(), scores, torch.tensor([True, False]), NamingSettings())
    assert np.array_equal(np.array(IDS)[painted.numpy()][1:], truth()[1:])


def test_a_segment_without_a_pixel_that_counts_is_called_nothing():
    assert true_names(halves(), np.full((8, 8), 255), IDS).sum() == 0


def test_the_regions_of_a_truth_are_its_candidate_classes():
    present, masks = regions(truth(), [3, 5, 7])
    assert present == [3, 7]
    assert np.array_equal(masks[0].numpy(), truth() == 3) and np.array_equal(masks[1].numpy(), truth() == 7)


def test_the_pixels_of_a_mask_lie_where_it_is_painted():
    assert mask_pixels(halves())[0].tolist() == [[True] * 4 + [False] * 4] * 8
