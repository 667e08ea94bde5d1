"""Matching costs and assignments: against plain loops, and against the numbers of the published code."""

import itertools
import math

import numpy as np
import pytest
import torch

from tests.support.parity import padded_labels
from zs3.learning.matching import assign, match_costs, softplus
from zs3.learning.targets import Targets, resize_targets, targets_from_labels


def random_case(seed: int, queries: int = 5, classes: int = 4) -> tuple[torch.Tensor, torch.Tensor, Targets]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes + 1, (6, 7), generator=generator)
    index = {k: k for k in range(classes)} | {classes: -1}
    return (
        3 * torch.randn(queries, classes + 1, generator=generator),
        4 * torch.randn(queries, 6, 7, generator=generator),
        targets_from_labels(labels, index),
    )


def plain_costs(
    class_logits: torch.Tensor, mask_logits: torch.Tensor, targets: Targets, void_is_negative: bool
) -> np.ndarray:
    """(3, Q, N) class, focal and dice costs, one pixel at a time, in double precision."""
    costs = np.zeros((3, len(class_logits), len(targets.classes)))
    pixels = [
        pixel
        for pixel in itertools.product(range(6), range(7))
        if void_is_negative or bool(targets.valid[pixel])
    ]
    for q, n in itertools.product(range(len(class_logits)), range(len(targets.classes))):
        exponentials = [math.exp(float(v)) for v in class_logits[q]]
        costs[0, q, n] = -exponentials[int(targets.classes[n])] / sum(exponentials)
        focal = overlap = area = 0.0
        for pixel in pixels:
            p = 1 / (1 + math.exp(-float(mask_logits[q][pixel])))
            inside = bool(targets.masks[n][pixel])
            focal += -0.25 * (1 - p) ** 2 * math.log(p) if inside else -0.75 * p**2 * math.log(1 - p)
            overlap += p * inside
            area += p + inside
        costs[1, q, n] = focal / len(pixels)
        costs[2, q, n] = 1 - (2 * overlap + 1) / (area + 1)
    return costs


@pytest.mark.parametrize("void_is_negative", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_costs_equal_a_loop_over_pixels(seed: int, void_is_negative: bool) -> None:
    class_logits, mask_logits, targets = random_case(seed)
    costs = match_costs(class_logits, mask_logits, targets, void_is_negative=void_is_negative)
    ours = np.stack([costs.by_class, costs.by_mask, costs.by_dice])
    # float32 sums of 42 terms: 5e-7 measured at most; one pixel counted wrongly moves 1e-2.
    assert np.abs(ours - plain_costs(class_logits, mask_logits, targets, void_is_negative)).max() < 2e-6
    expected = 1 * ours[0] + 20 * ours[1] + 1 * ours[2]
    assert np.allclose(costs.total().numpy(), expected, rtol=1e-6)


def test_softplus_and_its_gradient_equal_float64_everywhere() -> None:
    x = torch.cat([torch.linspace(-120, 120, 4001), torch.tensor([0.0, -0.0, 1e-8, -1e-8, 1e4, -1e4])])
    ours, exact = x.clone().requires_grad_(), x.double().requires_grad_()
    one, other = softplus(ours), torch.nn.functional.softplus(exact, threshold=1000)
    assert torch.allclose(one.double(), torch.where(exact > 1000, exact, other), rtol=2e-7, atol=1e-7)
    (gradient,) = torch.autograd.grad(one.sum(), ours)
    assert torch.allclose(gradient.double(), exact.detach().sigmoid(), rtol=0, atol=2e-7)


def test_huge_logits_give_finite_costs() -> None:
    class_logits, mask_logits, targets = random_case(0)
    costs = match_costs(class_logits, 1e4 * mask_logits, targets, void_is_negative=False)
    assert torch.isfinite(costs.total()).all() and (costs.by_mask >= 0).all()


def test_predictions_on_pixels_that_are_not_valid_cost_nothing() -> None:
    class_logits, mask_logits, targets = random_case(1)
    changed = torch.where(targets.valid, mask_logits, mask_logits + 17)
    one = match_costs(class_logits, mask_logits, targets, void_is_negative=False).total()
    assert torch.equal(one, match_costs(class_logits, changed, targets, void_is_negative=False).total())
    published = [
        match_costs(class_logits, m, targets, void_is_negative=True).total() for m in (mask_logits, changed)
    ]
    assert not torch.equal(*published)


def test_the_assignment_is_the_cheapest_of_all() -> None:
    cost = np.random.default_rng(0).normal(size=(5, 3))
    queries, targets = assign(cost)
    cheapest = min(
        sum(cost[q, n] for n, q in enumerate(rows)) for rows in itertools.permutations(range(5), 3)
    )
    assert cost[queries, targets].sum() == pytest.approx(cheapest)
    assert len(set(queries)) == 3 and sorted(targets) == [0, 1, 2]


def test_more_targets_than_queries_and_no_targets_are_assigned_too() -> None:
    assert [len(part) for part in assign(np.random.default_rng(0).normal(size=(2, 5)))] == [2, 2]
    assert [len(part) for part in assign(np.zeros((4, 0)))] == [0, 0]


def test_costs_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match="1 of 4 matching costs are not finite"):
        assign(np.array([[0.0, np.nan], [1.0, 2.0]]))


def test_targets_of_another_size_or_vocabulary_are_refused() -> None:
    class_logits, mask_logits, targets = random_case(0)
    with pytest.raises(ValueError, match=r"\(3, 7\), predicted masks \(6, 7\)"):
        match_costs(class_logits, mask_logits, resize_targets(targets, 3, 7), void_is_negative=True)
    with pytest.raises(ValueError, match="class 3, but the text bank has 2"):
        match_costs(class_logits[:, :3], mask_logits, targets, void_is_negative=True)


@pytest.mark.parametrize(
    ("recordings", "case"),
    [("small", "two"), ("full", "two"), ("full", "three_with_empty")],
    indirect=["recordings"],
)
def test_recorded_costs_and_assignments_are_reproduced(recordings, case: str) -> None:
    recording = recordings("training")
    for image in range(2 if case == "two" else 3):
        targets = targets_from_labels(padded_labels(recording[f"label{image}"]), range(15))
        small = resize_targets(targets, 40, 40)
        for layer in ("last", "aux0", "aux1"):
            class_logits = torch.from_numpy(recording[f"{case}/{layer}/pred_logits"][image])
            mask_logits = torch.from_numpy(recording[f"{case}/{layer}/pred_masks"][image])
            costs = match_costs(class_logits, mask_logits, small, void_is_negative=True)
            assert np.array_equal(
                np.stack(assign(costs.total().numpy())), recording[f"{case}/{layer}/match{image}"]
            )
            if layer != "last" or not len(small.classes):  # no costs were recorded without targets
                continue
            assert np.array_equal(small.classes.numpy(), recording[f"{case}/target_classes{image}"])
            parts = {
                "": costs.total(),
                "_class": costs.by_class,
                "_mask": costs.by_mask,
                "_dice": costs.by_dice,
            }
            for name, ours in parts.items():
                # Measured 2e-7 relative: the order of float32 sums. Another smoothing or divisor moves 1e-3.
                assert np.allclose(*recording.pair(f"{case}/cost{name}{image}", ours), rtol=2e-6, atol=1e-6)
