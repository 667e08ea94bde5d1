"""The baseline's loss: cross-entropy of seen pixels, and not a trace of any other pixel."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from zs3.learning.loop import batch_losses, train_steps
from zs3.learning.optimizer import adamw
from zs3.learning.pixel_loss import pixel_loss
from zs3.learning.samples import IGNORE, training_labels
from zs3.learning.targets import EXCLUDED, NEGATIVE
from zs3.nets.networks import build_network

CLASSES = 3
TABLE = {0: NEGATIVE, 1: 0, 2: 1, 3: 2, 4: EXCLUDED, 5: EXCLUDED}
"""Class ids of the truth: background, three seen classes, two unseen ones."""


def embeddings(batch=2, cells=16):
    generator = torch.Generator().manual_seed(3)
    return F.normalize(torch.randn(batch, 8, cells, cells, generator=generator), dim=1).requires_grad_()


def bank():
    return F.normalize(torch.randn(CLASSES, 8, generator=torch.Generator().manual_seed(4)), dim=1)


def truth(batch=2, side=64):
    return np.random.default_rng(5).integers(0, 6, (batch, side, side)).astype(np.int32)


def labels_of(truth_BHW):
    return np.stack([training_labels(one, TABLE, CLASSES, ignore_id=255) for one in truth_BHW])


@pytest.mark.parametrize("resolution", ["full", "prediction"])
def test_the_value_of_a_pixel_that_is_not_seen_changes_neither_loss_nor_gradient(resolution):
    base = truth()
    found = []
    for value in (0, 4, 5, 255):
        changed = np.where(np.isin(base, [0, 4, 5]), value, base)
        held = embeddings()
        loss = pixel_loss(held, labels_of(changed), bank(), 0.05, resolution=resolution)
        loss.backward()
        found.append((loss.detach(), held.grad))
    assert float(found[0][0]) > 0
    for loss, gradient in found[1:]:
        assert torch.equal(loss, found[0][0]) and torch.equal(gradient, found[0][1])


def test_cells_without_a_seen_pixel_get_no_gradient():
    base = np.full((1, 64, 64), 255, dtype=np.int32)
    base[0, :32] = 2
    held = embeddings(batch=1)
    pixel_loss(held, labels_of(base), bank(), 0.05, resolution="prediction").backward()
    assert not held.grad[:, :, 8:].any() and held.grad[:, :, :8].abs().sum() > 0


def test_it_is_the_mean_cross_entropy_of_seen_pixels():
    labels, held = labels_of(truth()), embeddings()
    logits = torch.einsum("bdhw,kd->bkhw", held, bank()) / 0.05
    cells = labels[:, ::4, ::4]
    each = [
        -logits[b, :, i, j].log_softmax(dim=0)[int(cells[b, i, j])]
        for b, i, j in np.argwhere(cells < CLASSES).tolist()
    ]
    loss = pixel_loss(held, labels, bank(), 0.05, resolution="prediction")
    # A float32 sum of 260 terms in another order: 1e-6 relative; one pixel more or less is 4e-3.
    torch.testing.assert_close(loss, torch.stack(each).mean(), rtol=1e-5, atol=0)


def test_where_all_cells_agree_both_resolutions_agree():
    vectors = F.normalize(torch.randn(1, 8, 1, 1, generator=torch.Generator().manual_seed(6)), dim=1)
    held, labels = vectors.expand(1, 8, 16, 16), np.ones((1, 64, 64), dtype=np.int16)
    full, cells = (pixel_loss(held, labels, bank(), 0.05, resolution=r) for r in ("full", "prediction"))
    torch.testing.assert_close(full, cells)


def test_a_batch_without_a_seen_pixel_has_loss_zero():
    held = embeddings()
    loss = pixel_loss(held, np.full((2, 64, 64), IGNORE, np.int16), bank(), 0.05, resolution="full")
    loss.backward()
    assert float(loss.detach()) == 0 and not held.grad.any()


def test_workers_divide_by_the_mean_number_of_labelled_pixels():
    labels, held = labels_of(truth()), embeddings()
    own = pixel_loss(held, labels, bank(), 0.05, resolution="full")
    doubled = pixel_loss(held, labels, bank(), 0.05, resolution="full", mean_count=lambda count: 2 * count)
    torch.testing.assert_close(doubled, own / 2)


def test_the_training_loop_teaches_the_baseline_its_batch(tiny_recipe):
    torch.manual_seed(0)
    recipe = replace(tiny_recipe, model=replace(tiny_recipe.model, architecture="pixel_level"))
    recipe = replace(recipe, training=replace(recipe.training, steps=25))
    network = build_network(recipe.model).train()
    crops = np.zeros((2, 64, 64, 3), dtype=np.uint8)
    crops[:, :, 32:] = 255
    labels = np.where(crops[..., 0] > 0, 1, 0).astype(np.int16)
    rows = F.normalize(torch.randn(2, 384, generator=torch.Generator().manual_seed(1)), dim=1)
    assert set(batch_losses(network, crops, labels, rows, recipe.model, recipe.training)) == {"loss_ce"}
    reports = []
    optimizer = adamw(network, recipe.training.optimizer)
    steps = train_steps(
        network,
        [(crops, labels)] * 25,
        rows,
        optimizer,
        recipe.model,
        recipe.training,
        on_step=reports.append,
    )
    assert steps == 25 and set(reports[-1].terms) == {"loss_ce"}
    assert reports[-1].loss < reports[0].loss / 2
