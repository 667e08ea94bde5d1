"""The losses: against a plain loop, against the published numbers, and deaf to whatever is not seen truth."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.support.parity import facts, padded_labels
from zs3.learning.losses import LossSettings, segmentation_losses, total_loss
from zs3.learning.matching import assign, match_costs
from zs3.learning.targets import Targets, count_masks, resize_targets, targets_from_labels

K, QUERIES, LAYERS, STRIDE = 4, 6, 2, 4
INDEX = {0: -1, 1: 0, 2: 1, 3: 2, 4: 3, 7: -1, 8: -1}
"""Ids 1 to 4 are seen; 0 is background; 7 and 8 are unseen."""
POINTS = {"num_points": 64}


def scene(seed: int = 0, cells: int = 6) -> tuple[list[Tensor], list[Tensor], list[np.ndarray]]:
    """Class and mask logits (leaves) of two layers, and label maps of two images in blocks of the stride."""
    rng = np.random.default_rng(seed)
    generator = torch.Generator().manual_seed(seed)
    labels = [
        rng.choice([0, 1, 2, 3, 7, 8, 255], size=(cells, cells)).repeat(STRIDE, 0).repeat(STRIDE, 1)
        for _ in range(2)
    ]
    classes = [torch.randn(2, QUERIES, K + 1, generator=generator).requires_grad_() for _ in range(LAYERS)]
    masks = [
        (3 * torch.randn(2, QUERIES, cells, cells, generator=generator)).requires_grad_()
        for _ in range(LAYERS)
    ]
    return classes, masks, labels


def loss_and_gradients(
    classes: list[Tensor], masks: list[Tensor], targets: list[Targets], settings: LossSettings
) -> list[Tensor]:
    torch.manual_seed(0)
    losses = segmentation_losses(classes, masks, targets, settings, num_masks=count_masks(targets))
    total = total_loss(losses, settings)
    return [total.detach(), *torch.autograd.grad(total, [*classes, *masks])]


def identical(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other))


@pytest.mark.parametrize("compared", [{}, {"mask_resolution": "prediction"}, POINTS])
@pytest.mark.parametrize("spare", [None, 0.5])
def test_names_of_unseen_and_void_pixels_reach_neither_loss_nor_gradients(
    compared: dict, spare: float | None
) -> None:
    classes, masks, labels = scene()
    settings = LossSettings(**compared, spare_queries_on_void=spare)
    rng = np.random.default_rng(5)
    renamed = [
        np.where(np.isin(m, [0, 7, 8, 255]), rng.choice([0, 7, 8, 255], size=m.shape), m) for m in labels
    ]
    assert not np.array_equal(labels[0], renamed[0])
    one, other = (
        loss_and_gradients(classes, masks, [targets_from_labels(m, INDEX) for m in maps], settings)
        for maps in (labels, renamed)
    )
    assert identical(one, other)


@pytest.mark.parametrize("compared", [{}, POINTS])
def test_an_unseen_class_leaked_into_the_index_is_caught(compared: dict) -> None:
    classes, masks, labels = scene()
    renamed = [np.where(m == 7, 8, m) for m in labels]
    leaky = INDEX | {7: 3}
    one, other = (
        loss_and_gradients(
            classes, masks, [targets_from_labels(m, leaky) for m in maps], LossSettings(**compared)
        )
        for maps in (labels, renamed)
    )
    assert not identical(one, other)


def shifted_on_invalid(masks: list[Tensor], targets: list[Targets]) -> list[Tensor]:
    """Mask logits that differ on every cell without seen truth."""
    valid = torch.stack([resize_targets(t, *masks[0].shape[-2:]).valid for t in targets])[:, None]
    return [torch.where(valid, layer, layer.detach() * -2 + 5).detach().requires_grad_() for layer in masks]


def test_predictions_on_unseen_and_void_pixels_reach_neither_loss_nor_gradients() -> None:
    classes, masks, labels = scene()
    targets = [targets_from_labels(m, INDEX) for m in labels]
    settings = LossSettings(mask_resolution="prediction")
    one = loss_and_gradients(classes, masks, targets, settings)
    assert identical(one, loss_and_gradients(classes, shifted_on_invalid(masks, targets), targets, settings))
    valid = torch.stack([resize_targets(t, 6, 6).valid for t in targets])[:, None].expand_as(masks[0])
    for gradient in one[1 + LAYERS :]:
        assert not gradient[~valid].any() and gradient[valid].any()


def test_the_published_switch_does_leak_predictions_on_void() -> None:
    classes, masks, labels = scene()
    targets = [targets_from_labels(m, INDEX) for m in labels]
    settings = LossSettings(mask_resolution="prediction", void_is_negative=True)
    one = loss_and_gradients(classes, masks, targets, settings)
    assert not identical(
        one, loss_and_gradients(classes, shifted_on_invalid(masks, targets), targets, settings)
    )


@pytest.mark.parametrize("compared", [{}, POINTS])
def test_cells_far_from_seen_truth_get_no_gradient_and_change_no_loss(compared: dict) -> None:
    classes, masks, _ = scene()
    labels = np.full((24, 24), 7)
    labels[:8, :8] = 1
    targets = [targets_from_labels(labels, INDEX)] * 2
    gradients = loss_and_gradients(classes, masks, targets, LossSettings(**compared))
    far = torch.zeros(6, 6, dtype=torch.bool)
    far[3:], far[:, 3:] = True, True
    moved = [torch.where(far, layer.detach() * -2 + 5, layer.detach()).requires_grad_() for layer in masks]
    if compared:  # at full resolution the matching reads other cells
        assert identical(gradients, loss_and_gradients(classes, moved, targets, LossSettings(**compared)))
    for gradient in gradients[1 + LAYERS :]:
        # The bilinear kernel of the two seen cells reaches one cell further, and no more.
        assert gradient[..., :2, :2].any() and not gradient[..., 3:, :].any() and not gradient[..., 3:].any()


def plain_losses(
    classes: Tensor, masks: Tensor, targets: list[Targets], settings: LossSettings
) -> list[float]:
    """loss_ce, loss_mask, loss_dice of one layer at prediction resolution, pair by pair, in float64."""
    numerator = denominator = focal = dice = 0.0
    for image, truth in enumerate(targets):
        small = resize_targets(truth, *masks.shape[-2:])
        used = small.valid | settings.void_is_negative
        costs = match_costs(
            classes[image], masks[image], small, void_is_negative=settings.void_is_negative
        ).total()
        match = dict(zip(*(part.tolist() for part in assign(costs.numpy()))))
        for query in range(len(classes[image])):
            negative_log = -classes[image, query].double().log_softmax(-1)
            p = masks[image, query].double().sigmoid()
            if query not in match:
                covered = p > 0.5
                spared = settings.spare_queries_on_void is not None and bool(
                    (covered & ~small.valid).sum() > settings.spare_queries_on_void * covered.sum()
                )
                weight = 0.0 if spared else settings.no_object_weight
                numerator, denominator = numerator + weight * float(negative_log[-1]), denominator + weight
                continue
            numerator += float(negative_log[small.classes[match[query]]])
            denominator += 1
            t = small.masks[match[query]].double()
            p_t = p * t + (1 - p) * (1 - t)
            alpha = 0.25 * t + 0.75 * (1 - t)
            focal += float((-alpha * (1 - p_t) ** 2 * p_t.log())[used].mean())
            dice += float(1 - (2 * (p * t)[used].sum() + 1) / ((p + t)[used].sum() + 1))
    number = count_masks(targets)
    return [numerator / denominator, focal / number, dice / number]


@pytest.mark.parametrize("void_is_negative", [True, False])
@pytest.mark.parametrize("spare", [None, 0.6])
@pytest.mark.parametrize("seed", range(3))
def test_losses_equal_a_plain_loop(seed: int, spare: float | None, void_is_negative: bool) -> None:
    classes, masks, labels = scene(seed)
    targets = [targets_from_labels(m, INDEX) for m in labels]
    settings = LossSettings(
        mask_resolution="prediction", void_is_negative=void_is_negative, spare_queries_on_void=spare
    )
    with torch.no_grad():
        losses = segmentation_losses(classes, masks, targets, settings, num_masks=count_masks(targets))
        for layer, suffix in enumerate(["_0", ""]):
            ours = [float(losses[f"loss_{name}{suffix}"]) for name in ("ce", "mask", "dice")]
            assert ours == pytest.approx(
                plain_losses(classes[layer], masks[layer], targets, settings), rel=2e-6
            )


def test_full_resolution_equals_prediction_resolution_when_the_stride_is_one() -> None:
    classes, masks, labels = scene()
    targets = [targets_from_labels(m[::STRIDE, ::STRIDE], INDEX) for m in labels]
    one, other = (
        loss_and_gradients(classes, masks, targets, LossSettings(mask_resolution=r))
        for r in ("full", "prediction")
    )
    assert all(torch.allclose(a, b, rtol=1e-6, atol=1e-7) for a, b in zip(one, other))


def test_points_that_touch_void_count_nowhere() -> None:
    labels = np.full((24, 24), 7)
    labels[4:20, 4:20] = 1
    masks = [torch.full((1, 1, 6, 6), 2.0)]
    losses = segmentation_losses(
        [torch.zeros(1, 1, K + 1)],
        masks,
        [targets_from_labels(labels, INDEX)],
        LossSettings(**POINTS),
        num_masks=1,
    )
    # Every other point lies inside of the target, where the logit is 2.
    assert float(losses["loss_mask"]) == pytest.approx(math.log1p(math.exp(-2.0)), rel=1e-6)


def test_a_query_over_void_alone_is_spared_from_no_object_and_another_is_not() -> None:
    labels = np.full((8, 8), 7)
    labels[:4] = 1
    classes = torch.zeros(1, 3, K + 1, requires_grad=True)
    masks = torch.full((1, 3, 2, 2), -5.0)
    masks[0, 0, 0] = 5.0  # the seen object
    masks[0, 1, 1] = 5.0  # the unseen one
    masks[0, 2, 0, 0] = 5.0  # a part of the seen one, without a target
    settings = LossSettings(spare_queries_on_void=0.5)
    losses = segmentation_losses(
        [classes], [masks], [targets_from_labels(labels, INDEX)], settings, num_masks=1
    )
    (gradient,) = torch.autograd.grad(losses["loss_ce"], classes)
    assert gradient[0, 0].any() and not gradient[0, 1].any() and gradient[0, 2].any()


def test_a_batch_without_any_target_has_finite_losses_on_the_graph() -> None:
    classes, masks, labels = scene()
    targets = [targets_from_labels(np.full_like(m, 255), INDEX) for m in labels]
    for settings in (LossSettings(), LossSettings(spare_queries_on_void=0.5), LossSettings(**POINTS)):
        values = loss_and_gradients(classes, masks, targets, settings)
        assert all(torch.isfinite(value).all() for value in values)
        assert not any(gradient.any() for gradient in values[1 + LAYERS :])


def test_losses_are_float32_under_autocast() -> None:
    classes, masks, labels = scene()
    targets = [targets_from_labels(m, INDEX) for m in labels]
    plain = loss_and_gradients(classes, masks, targets, LossSettings())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert identical(plain, loss_and_gradients(classes, masks, targets, LossSettings()))


def test_mask_losses_scale_with_the_number_of_masks_and_the_cross_entropy_does_not() -> None:
    classes, masks, labels = scene()
    targets = [targets_from_labels(m, INDEX) for m in labels]
    one, two = (segmentation_losses(classes, masks, targets, LossSettings(), num_masks=n) for n in (4, 8))
    assert torch.equal(one["loss_ce"], two["loss_ce"])
    assert torch.equal(one["loss_mask_0"], 2 * two["loss_mask_0"])
    assert torch.equal(one["loss_dice"], 2 * two["loss_dice"])


def test_targets_of_another_batch_are_refused() -> None:
    classes, masks, labels = scene()
    with pytest.raises(ValueError, match="targets of 1 images for predictions of 2"):
        segmentation_losses(
            classes, masks, [targets_from_labels(labels[0], INDEX)], LossSettings(), num_masks=1
        )


@pytest.mark.parametrize(
    ("recordings", "case"),
    [("small", "two"), ("full", "two"), ("full", "three_with_empty")],
    indirect=["recordings"],
)
def test_recorded_losses_are_reproduced_layer_by_layer(recordings, case: str) -> None:
    recording, expected = recordings("training"), facts("training")
    targets = [
        targets_from_labels(padded_labels(recording[f"label{image}"]), range(15))
        for image in expected["cases"][case]
    ]
    classes, masks = (
        [torch.from_numpy(recording[f"{case}/{layer}/pred_{kind}"]) for layer in ("aux0", "aux1", "last")]
        for kind in ("logits", "masks")
    )
    settings = LossSettings(void_is_negative=True)
    losses = segmentation_losses(classes, masks, targets, settings, num_masks=count_masks(targets))
    # Two independent implementations agreed to 2e-6; measured here 3e-7.
    recorded = expected["losses_unweighted"][case]
    assert {name: float(loss) for name, loss in losses.items()} == pytest.approx(recorded, rel=2e-6)
    assert float(total_loss(losses, settings)) == pytest.approx(expected["losses"][case]["total"], rel=2e-6)
