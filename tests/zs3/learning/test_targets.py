"""Targets hold the seen truth and nothing else."""

import numpy as np
import pytest
import torch

from zs3.learning.targets import (
    EXCLUDED,
    NEGATIVE,
    Targets,
    count_masks,
    resize_targets,
    targets_from_labels,
)

INDEX = {0: EXCLUDED, 1: 0, 2: 1, 3: EXCLUDED, 9: 1}


def labels_of(seed: int = 0, shape: tuple[int, int] = (12, 9)) -> np.ndarray:
    return np.random.default_rng(seed).choice([0, 1, 2, 3, 9, 255], size=shape).astype(np.uint8)


def same(one: Targets, other: Targets) -> bool:
    return all(
        torch.equal(getattr(one, name), getattr(other, name)) for name in ("classes", "masks", "valid")
    )


def test_every_class_present_has_one_mask_of_all_its_pixels() -> None:
    labels = labels_of()
    targets = targets_from_labels(labels, INDEX)
    assert targets.classes.tolist() == [0, 1]
    assert np.array_equal(targets.masks[0].numpy(), labels == 1)
    assert np.array_equal(targets.masks[1].numpy(), np.isin(labels, [2, 9]))
    assert np.array_equal(targets.valid.numpy(), np.isin(labels, [1, 2, 9]))
    assert count_masks([targets, targets]) == 4


def test_relabelling_pixels_that_are_not_valid_changes_nothing() -> None:
    labels = labels_of()
    renamed = labels.copy()
    renamed[np.isin(labels, [0, 3, 255])] = np.random.default_rng(1).choice(
        [0, 3, 255], size=int(np.isin(labels, [0, 3, 255]).sum())
    )
    assert not np.array_equal(labels, renamed)
    assert same(targets_from_labels(labels, INDEX), targets_from_labels(renamed, INDEX))


def test_an_unseen_class_that_slips_into_the_index_shows() -> None:
    assert not same(targets_from_labels(labels_of(), INDEX), targets_from_labels(labels_of(), INDEX | {3: 2}))


def test_a_certain_negative_is_valid_but_no_target() -> None:
    labels = labels_of()
    targets = targets_from_labels(labels, INDEX | {0: NEGATIVE})
    assert targets.classes.tolist() == [0, 1]
    assert targets.valid[torch.from_numpy(labels == 0)].all()
    assert not targets.masks[:, torch.from_numpy(labels == 0)].any()


def test_index_as_mapping_and_as_array_agree_for_every_label_type() -> None:
    table = np.full(10, EXCLUDED)
    table[[1, 2, 9]] = [0, 1, 1]
    expected = targets_from_labels(labels_of(), INDEX)
    for dtype in (np.uint8, np.int32, np.int64, np.uint16):
        assert same(targets_from_labels(labels_of().astype(dtype), table), expected)
    assert same(targets_from_labels(torch.from_numpy(labels_of()), table), expected)


def test_the_ignore_id_wins_over_the_index() -> None:
    targets = targets_from_labels(np.array([[1, 2]]), {1: 0, 2: 1}, ignore_id=2)
    assert targets.classes.tolist() == [0] and targets.valid.tolist() == [[True, False]]


def test_an_image_without_seen_truth_has_no_targets() -> None:
    targets = targets_from_labels(np.full((4, 5), 255), INDEX)
    assert targets.masks.shape == (0, 4, 5) and not targets.valid.any()


@pytest.mark.parametrize("stranger", [4, 77, -5])
def test_a_label_outside_the_index_is_named(stranger: int) -> None:
    with pytest.raises(ValueError, match=rf"\[{stranger}\].*ignore id"):
        targets_from_labels(np.array([[1, stranger]]), INDEX)


def test_labels_that_are_no_map_of_integers_are_refused() -> None:
    with pytest.raises(ValueError, match="float32"):
        targets_from_labels(np.zeros((2, 2), np.float32), INDEX)
    with pytest.raises(ValueError, match=r"\(2, 2, 1\)"):
        targets_from_labels(np.zeros((2, 2, 1), np.int64), INDEX)


@pytest.mark.parametrize("size", [(3, 3), (12, 9), (24, 27), (5, 7), (1, 1)])
def test_resizing_agrees_with_nearest_interpolation(size: tuple[int, int]) -> None:
    targets = targets_from_labels(labels_of(), INDEX)
    resized = resize_targets(targets, *size)
    expected = torch.nn.functional.interpolate(targets.masks[None].float(), size=size, mode="nearest")[0] > 0
    assert torch.equal(resized.masks, expected)
    valid = torch.nn.functional.interpolate(targets.valid[None, None].float(), size=size, mode="nearest")[
        0, 0
    ]
    assert torch.equal(resized.valid, valid > 0)
