"""Training through Ray: it ends with a checkpoint, goes on after a killed worker, and does nothing twice."""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.training.train import TrainRequest, Workers, train
from tests.support.shapes import write_shapes
from zs3.checkpoint import load_checkpoint
from zs3.images.codec import encode_label_png
from zs3.nets.backbone import build_backbone
from zs3.recipes import recipe
from zs3.vocabulary import load_vocabulary

QUICK = Workers(threads=1, cpus_per_worker=0.5, decode_tasks=1, report_every_s=0.0)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    return write_shapes(tmp_path_factory.mktemp("data"))


def request(recipe, shapes, out):
    return TrainRequest(recipe=recipe, data_root=str(shapes), out=str(out))


@pytest.fixture(scope="module")
def uninterrupted(ray_session, tiny_recipe, shapes, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    seen = []
    result = train(request(tiny_recipe, shapes, out), QUICK, on_progress=seen.append)
    return out, result, seen


def training_worker():
    """The process id of the training worker below this process, and of no other Ray's."""
    parents, workers = {}, []
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            pid, text = int(status.parent.name), status.read_text()
            parents[pid] = int(text.split("PPid:")[1].split()[0])
            if b"RayTrainWorker" in (status.parent / "cmdline").read_bytes():
                workers.append(pid)
        except (OSError, IndexError):
            continue
    for pid in workers:
        ancestor = pid
        while ancestor in parents and ancestor != os.getpid():
            ancestor = parents[ancestor]
        if ancestor == os.getpid():
            return pid
    raise AssertionError("no training worker below this process")


def test_a_run_ends_with_a_checkpoint_that_knows_its_seen_classes(uninterrupted, tiny_recipe):
    _, result, seen = uninterrupted
    checkpoint = load_checkpoint(result.checkpoint)
    assert checkpoint.seen_classes == ("apple", "sky")
    assert checkpoint.recipe == tiny_recipe
    assert (result.resumed_at, result.steps) == (0, 6)
    assert seen[-1].step == 6 and all(set(p.terms) == {"loss_ce", "loss_mask", "loss_dice"} for p in seen)
    assert all(torch.isfinite(v).all() for v in checkpoint.state.values() if v.is_floating_point())


def test_a_finished_run_does_nothing_again(uninterrupted, tiny_recipe, shapes):
    out, result, _ = uninterrupted
    again = train(request(tiny_recipe, shapes, out), QUICK)
    assert again.resumed_at == again.steps and again.digest == result.digest


def test_a_killed_worker_costs_no_step_and_changes_no_weight(uninterrupted, tiny_recipe, shapes, tmp_path):
    _, result, _ = uninterrupted
    killed = []

    def kill_once(progress):
        if progress.step >= 5 and not killed:
            killed.append(progress.step)
            os.kill(training_worker(), signal.SIGKILL)

    recovered = train(request(tiny_recipe, shapes, tmp_path), QUICK, on_progress=kill_once)
    assert killed
    before, after = (load_checkpoint(r.checkpoint).state for r in (result, recovered))
    # Same samples, same dropout; what differs is the order of float32 sums. A skipped step moves 1e-3.
    assert max(float((before[k] - after[k]).abs().max()) for k in before) < 1e-4


def test_other_settings_are_another_run(uninterrupted, tiny_recipe, shapes):
    out, result, _ = uninterrupted
    naming_only = replace(tiny_recipe, naming=replace(tiny_recipe.naming, calibration=0.5))
    assert train(request(naming_only, shapes, out), QUICK).run == result.run
    from pipelines.training.train import run_name
    from zs3.datasets import open_dataset
    from zs3.learning.samples import training_plan

    plan = training_plan(
        [open_dataset("folder", str(shapes / "shapes"), "train")], background_is_negative=True
    )
    slower = replace(tiny_recipe, training=replace(tiny_recipe.training, seed=1))
    assert run_name(request(slower, shapes, out), plan) != run_name(request(tiny_recipe, shapes, out), plan)


def test_a_missing_data_set_is_named(tiny_recipe, tmp_path):
    with pytest.raises((ValueError, FileNotFoundError), match="shapes"):
        train(request(tiny_recipe, tmp_path, tmp_path), QUICK)


@pytest.fixture
def voc(tmp_path):
    """Two pictures in the layout of VOC's devkit, weights of a small ResNet in torchvision's, and word embeddings."""
    from PIL import Image

    folder = tmp_path / "VOC2012"
    for name in ("JPEGImages", "SegmentationClassAug", "ImageSets/Segmentation"):
        (folder / name).mkdir(parents=True)
    for number, (first, second) in enumerate(((1, 15), (16, 12))):  # 16 is unseen
        mask = np.full((48, 64), 255, dtype=np.uint8)
        mask[:, :20], mask[:, 24:44] = first, second
        grey = np.repeat((mask * 9)[..., None], 3, axis=2)
        Image.fromarray(grey).save(folder / "JPEGImages" / f"{number}.jpg")
        (folder / "SegmentationClassAug" / f"{number}.png").write_bytes(encode_label_png(mask))
    (folder / "ImageSets/Segmentation/train_aug.txt").write_text("0\n1\n")
    torch.manual_seed(0)
    backbone = build_backbone("resnet50", width=8, bottleneck_width=4).state_dict()
    torch.save({**backbone, "fc.weight": torch.ones(1, 1)}, tmp_path / "resnet.pth")
    (tmp_path / "words").mkdir()
    seen = [entry.name for entry in load_vocabulary("voc").candidates if entry.role == "seen"]
    np.save(tmp_path / "words" / "embeddings.npy", np.eye(15, 16))
    (tmp_path / "words" / "names.json").write_text(json.dumps(seen))
    return tmp_path


def small_voc_r50(voc):
    """The published recipe with fewer channels, one step of two small crops, and embeddings instead of CLIP."""
    made = recipe("voc_r50")
    return replace(
        made,
        model=replace(
            made.model, backbone_width=8, bottleneck_width=4, pyramid_dim=32, mask_dim=16, hidden_dim=16,
            num_queries=10, num_heads=2, feedforward_dim=32, num_layers=2, text_dim=16,
        ),
        query_text=replace(made.query_text, embeddings=str(voc / "words")),
        training=replace(
            made.training, steps=1, batch_size=2, backbone_weights=str(voc / "resnet.pth"),
            augmentation=replace(made.training.augmentation, crop_px=64, short_edges_px=(48, 64)),
        ),
    )  # fmt: skip


def test_a_published_recipe_trains_in_small_from_a_backbone_file(ray_session, voc):
    result = train(request(small_voc_r50(voc), voc, voc / "runs"), QUICK)
    checkpoint = load_checkpoint(result.checkpoint)
    assert len(checkpoint.seen_classes) == 15
    started = torch.load(voc / "resnet.pth", weights_only=True)
    moved = {name: float((checkpoint.state[f"backbone.{name}"] - started[name]).abs().max())
             for name in ("bn1.weight", "layer1.0.conv1.weight")}  # fmt: skip
    # Frozen statistics stay; AdamW's first step moves a weight by its rate, a tenth of 1e-4 in the backbone.
    assert moved["bn1.weight"] == 0 and 0 < moved["layer1.0.conv1.weight"] < 2e-5


def test_a_backbone_file_that_is_absent_or_of_another_network_is_named_before_anything_runs(ray_session, voc):
    made = small_voc_r50(voc)
    for weights, message in (("absent.pth", "no weights at .*absent.pth"), ("other.pth", "1 not expected")):
        torch.save({"layer9.weight": torch.ones(1)}, voc / "other.pth")
        training = replace(made.training, backbone_weights=str(voc / weights))
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            train(request(replace(made, training=training), voc, voc / "runs"), QUICK)
    assert not (voc / "runs").exists()
