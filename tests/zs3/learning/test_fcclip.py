"""Training an FC-CLIP: matching, losses, gradients and steps equal the recorded ones, at the recorded points."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.data.fcclip_networks import recorded_state, tiny_fcclip
from tests.support.parity import Recording, facts
from zs3.convert.fcclip import network_state
from zs3.convert.fcclip_names import released_name
from zs3.learning.losses import segmentation_losses, total_loss
from zs3.learning.matching import assign, match_costs
from zs3.learning.optimizer import adamw, clip_gradients, parameter_groups, set_learning_rate
from zs3.learning.points import Draw, targets_at, unsure_points, values_at
from zs3.learning.schedule import learning_rate_factor
from zs3.learning.targets import Targets, count_masks
from zs3.nets.fcclip import FcClip
from zs3.nets.networks import build_network
from zs3.nets.zegformer import class_logits
from zs3.text.stored_banks import class_bank
from zs3.vocabulary import ClassEntry

FACTS = facts("fcclip_training")
CASES = ("two", "one_without_objects")
LAYERS = ("last", "aux0", "aux1", "aux2", "aux3")
RECIPE = tiny_fcclip("convnext")
LOSSES = replace(RECIPE.training.losses, num_points=FACTS["num_points"])
SIDE = 128
"""Of the padded batch, in pixels."""


def recorded_draw(*seed: int) -> Draw:
    """The recorded random numbers. The release matches and compares layer by layer, ours first matches all layers."""
    matching = [4 * layer + image for layer in range(len(LAYERS)) for image in range(2)]
    losses = [4 * layer + part for layer in range(len(LAYERS)) for part in (2, 3)]
    calls = iter(matching + losses)

    def draw(shape: tuple[int, ...], *, device: torch.device) -> Tensor:
        return torch.from_numpy(np.random.default_rng([*seed, next(calls)]).random(shape, dtype=np.float32))

    return draw


@pytest.fixture
def network() -> FcClip:
    network = build_network(RECIPE.model)
    network.load_state_dict(network_state(recorded_state("convnext"), RECIPE, "recorded"), strict=True)
    assert isinstance(network, FcClip)
    return network.train()


@pytest.fixture(scope="module")
def bank() -> tuple[Tensor, Tensor]:
    """The rows of the fourteen training classes, and the class of each."""
    prefix = "backbone.clip_model."
    state = {
        k.removeprefix(prefix): v.float()
        for k, v in recorded_state("convnext").items()
        if k.startswith(prefix)
    }
    entries = [ClassEntry(id=i, name=name) for i, name in enumerate(facts("fcclip")["train"])]
    made = class_bank(
        RECIPE.query_text, entries, [True] * len(entries), device=torch.device("cpu"), clip_state=state
    )
    assert made.class_of_row is not None
    return torch.from_numpy(made.embeddings), torch.from_numpy(made.class_of_row)


def batch_of(recording: Recording, case: str) -> tuple[Tensor, list[Targets]]:
    """Both pictures, normalised and padded, and their targets."""
    mean, std = (
        torch.tensor(values)[:, None, None] for values in (RECIPE.model.image_mean, RECIPE.model.image_std)
    )
    images, targets = torch.zeros(2, 3, SIDE, SIDE), []
    for number in range(2):
        pixels = (torch.from_numpy(recording[f"image{number}"]).permute(2, 0, 1).float() - mean) / std
        height, width = pixels.shape[1:]
        images[number, :, :height, :width] = pixels
        packed = recording[f"{case}/masks{number}_packed"]
        masks, valid = (
            torch.zeros(len(packed), SIDE, SIDE, dtype=torch.bool),
            torch.zeros(SIDE, SIDE, dtype=torch.bool),
        )
        inside = np.unpackbits(packed, axis=1, count=height * width).reshape(-1, height, width)
        masks[:, :height, :width], valid[:height, :width] = torch.from_numpy(inside).bool(), True
        classes = torch.from_numpy(recording[f"{case}/classes{number}"]).long()
        targets.append(Targets(classes=classes, masks=masks, valid=valid))
    return images, targets


def losses_of(network, bank, images, targets, draw):
    outputs = network(images, all_layers=True)
    return segmentation_losses(
        [class_logits(output, *bank) for output in outputs],
        [output.mask_logits_BQhw for output in outputs],
        targets,
        LOSSES,
        num_masks=count_masks(targets),
        draw=draw,
    )


def test_groups_equal_the_recorded_ones(network) -> None:
    groups = parameter_groups(network, RECIPE.training.optimizer)
    found = {
        released_name(path): {"lr": group["lr"], "weight_decay": group["weight_decay"]}
        for group in groups
        for path in group["param_paths"]
    }
    recorded = FACTS["optimizer"]
    assert found == recorded["groups"]
    assert RECIPE.training.optimizer.clip_norm == recorded["clip"]
    made = adamw(network, RECIPE.training.optimizer).defaults
    assert {name: made[name] for name in ("eps", "lr")} == {
        name: recorded["defaults"][name] for name in ("eps", "lr")
    }
    assert list(made["betas"]) == recorded["defaults"]["betas"]


@pytest.mark.parametrize("case", CASES)
def test_costs_assignments_losses_and_gradients_equal_the_recorded_ones(
    network, bank, recordings, case
) -> None:
    recording, recorded = recordings("fcclip_training"), FACTS["cases"][case]
    images, targets = batch_of(recording, case)
    with torch.no_grad():
        outputs = network(images, all_layers=True)
    draw = recorded_draw(31)
    for layer, output in zip(LAYERS, (outputs[-1], *outputs[:-1])):
        logits = class_logits(output, *bank)
        if f"{case}/{layer}/pred_logits" in recording:
            # Measured 3e-5 and 2e-5; the tolerances of the recordings' own noise.
            assert recording.worst(f"{case}/{layer}/pred_logits", logits) < 3e-4
            assert recording.worst(f"{case}/{layer}/pred_masks", output.mask_logits_BQhw) < 2e-4
        for image, whole in enumerate(targets):
            points_1P2 = draw((1, LOSSES.num_points, 2), device=images.device)
            masks_Q1P = values_at(output.mask_logits_BQhw[image, None], points_1P2)[0, :, None]
            there = targets_at(whole, points_1P2[0])
            costs = match_costs(logits[image], masks_Q1P, there, void_is_negative=True, focal=False)
            key = f"{case}/{layer}"
            if len(whole.classes):
                # Means over 196 points of numbers of up to 34.
                assert recording.worst(f"{key}/cost_mask{image}", costs.by_mask) < 1e-4
                assert recording.worst(f"{key}/cost_dice{image}", costs.by_dice) < 1e-5
            total = costs.total(class_weight=2.0, mask_weight=5.0, dice_weight=5.0)
            matched = np.stack(assign(total.numpy()))
            assert np.array_equal(matched, recording[f"{key}/match{image}"])
    for layer, output in zip(LAYERS, (outputs[-1], *outputs[:-1])):
        masks = [recording[f"{case}/{layer}/match{image}"][0] for image in range(2)]
        logits_Mhw = torch.cat(
            [output.mask_logits_BQhw[image, queries] for image, queries in enumerate(masks)]
        )
        points_MP2 = unsure_points(logits_Mhw, LOSSES.num_points, draw)
        assert recording.worst(f"{case}/{layer}/points", points_MP2) == 0
    losses = losses_of(network, bank, images, targets, recorded_draw(31))
    weights = {"ce": 2.0, "mask": 5.0, "dice": 5.0}
    weighted = {name: float(loss.detach()) * weights[name.split("_")[1]] for name, loss in losses.items()}
    # Two independent implementations agreed to 1e-6.
    assert weighted == pytest.approx(recorded["weighted"], rel=5e-6)
    total = total_loss(losses, LOSSES)
    assert float(total.detach()) == pytest.approx(recorded["total"], rel=2e-6)
    total.backward()
    gradients = {
        released_name(path): parameter.grad
        for path, parameter in network.named_parameters()
        if parameter.grad is not None
    }
    assert gradients.keys() == recorded["grad_norm"].keys()
    for name, norm in recorded["grad_norm"].items():
        assert float(gradients[name].norm()) == pytest.approx(norm, rel=1e-4, abs=1e-3), name
    norm = torch.stack([gradient.norm() for gradient in gradients.values()]).norm()
    assert float(norm) == pytest.approx(recorded["total_grad_norm"], rel=2e-5)
    for key in recording:
        if key.startswith(f"{case}/grad/"):
            gradient = gradients[key.removeprefix(f"{case}/grad/")]
            assert recording.worst(key, gradient) < 1e-4 * float(gradient.abs().max()), key


def test_three_training_steps_equal_the_recorded_ones(network, bank, recordings) -> None:
    recording, training = recordings("fcclip_training"), RECIPE.training
    images, targets = batch_of(recording, "two")
    optimizer = adamw(network, training.optimizer)
    for step, expected in enumerate(FACTS["steps"]):
        set_learning_rate(optimizer, learning_rate_factor(training.schedule, step, training.steps))
        assert {group["lr"] for group in optimizer.param_groups} == {expected["lr"]}
        total = total_loss(
            losses_of(network, bank, images, targets, recorded_draw(100 + step)), training.losses
        )
        optimizer.zero_grad()
        total.backward()
        norm = clip_gradients(network.parameters(), training.optimizer.clip_norm)
        assert float(total.detach()) == pytest.approx(expected["total"], rel=5e-6)
        assert norm == pytest.approx(expected["grad_norm_before_clip"], rel=1e-4)
        optimizer.step()
    after = {released_name(path): parameter.detach() for path, parameter in network.named_parameters()}
    for key in recording:
        if key.startswith("after3/"):
            # The steps move a weight by up to 3e-4; two independent implementations agreed to 1e-7.
            assert recording.worst(key, after[key.removeprefix("after3/")]) < 1e-6, key
