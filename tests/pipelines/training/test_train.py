"""Training through Ray: it ends where a plain loop ends, also after a killed worker, and does nothing twice."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from pipelines.storage.objects import read_bytes
from pipelines.training.train import TrainRequest, Workers, backbone_source, run_name, train
from pipelines.training.worker import initial_network, seen_names, training_bank
from tests.data.fcclip_networks import small_training
from zs3.checkpoint import load_checkpoint
from zs3.convert.backbone import read_backbone
from zs3.datasets import open_dataset
from zs3.images.codec import encode_label_png
from zs3.learning.loop import train_steps
from zs3.learning.optimizer import adamw
from zs3.learning.samples import training_crop, training_plan
from zs3.learning.schedule import ScheduleSettings
from zs3.nets.backbone import build_backbone
from zs3.recipes import recipe
from zs3.vocabulary import load_vocabulary

QUICK = Workers(threads=1, cpus_per_worker=0.5, decode_tasks=1, report_every_s=0.0)


def request(recipe, data_root, out):
    return TrainRequest(recipe=recipe, data_root=str(data_root), out=str(out))


def plan_of(recipe, data_root):
    datasets = [
        replace(open_dataset(layout, f"{data_root}/{folder}", recipe.training.split), name=layout)
        for layout, folder in recipe.training.datasets
    ]
    return training_plan(datasets, background_is_negative=recipe.training.background_is_negative)


def trained_in_a_loop(recipe, data_root):
    """The network and the losses of a training in this process, without Ray."""
    training, plan = recipe.training, plan_of(recipe, data_root)
    source = backbone_source(recipe)
    network = initial_network(recipe, backbone=read_backbone(recipe.model, source) if source else None)
    bank, reports = training_bank(recipe, plan, torch.device("cpu"), network), []
    samples = range(training.steps * training.batch_size)
    crops = [training_crop(plan, n, training.augmentation, training.seed, read_bytes) for n in samples]
    batches = (
        tuple(np.stack(part) for part in zip(*crops[first : first + training.batch_size]))
        for first in samples[:: training.batch_size]
    )
    train_steps(
        network.train(),
        batches,
        torch.from_numpy(bank.embeddings),
        adamw(network, training.optimizer),
        recipe.model,
        training,
        class_of_row_R=None if bank.class_of_row is None else torch.from_numpy(bank.class_of_row),
        on_step=reports.append,
    )
    return network, [report.loss for report in reports]


def test_a_run_whose_worker_is_killed_ends_with_the_weights_of_a_plain_loop(trained_run):
    assert trained_run.steps[trained_run.killed_after] in (3, 5) and trained_run.steps[-1] == 8
    checkpoint = load_checkpoint(trained_run.result["checkpoint"])
    network, _ = trained_in_a_loop(trained_run.recipe, trained_run.data_root)
    expected = network.state_dict()
    assert checkpoint.state.keys() == expected.keys()
    # Same samples and points; what differs is the order of float32 sums. A skipped step moves 1e-4 and more.
    assert max(float((checkpoint.state[k] - value).abs().max()) for k, value in expected.items()) < 2e-5


def test_a_trained_fcclip_knows_all_names_it_saw_and_kept_its_clip(trained_run):
    checkpoint = load_checkpoint(trained_run.result["checkpoint"])
    assert checkpoint.recipe == trained_run.recipe
    assert checkpoint.seen_classes == ("apple,fruit", "sky")
    clip = initial_network(trained_run.recipe).backbone.state_dict()
    assert all(torch.equal(checkpoint.state[f"backbone.{name}"], value) for name, value in clip.items())
    assert all(torch.isfinite(v).all() for v in checkpoint.state.values() if v.is_floating_point())


def test_an_fcclip_learns_from_photographs(shared):
    made = small_training()
    training = replace(
        made.training,
        datasets=(("voc", "voc_mini"),),
        steps=32,
        batch_size=4,
        optimizer=replace(made.training.optimizer, learning_rate=1e-3, clip_norm=1.0),
        schedule=ScheduleSettings(kind="steps"),
        augmentation=replace(made.training.augmentation, fit_range=(1.0, 1.0)),
    )
    _, losses = trained_in_a_loop(replace(made, training=training), shared / "data")
    # Measured 52 and 44; the losses of single steps scatter by 4.
    assert sum(losses[-8:]) < 0.9 * sum(losses[:8])


def test_a_finished_run_does_nothing_again_and_naming_makes_no_other_run(trained_run):
    result, out, made = trained_run.result, trained_run.data_root / "runs", trained_run.recipe
    named = replace(made, naming=replace(made.naming, calibration=0.5))
    for known in (made, named):
        again = train(request(known, trained_run.data_root, out), QUICK)
        assert again.resumed_at == again.steps and again.digest == result["digest"]
        assert again.run == result["run"]
    plan = plan_of(made, trained_run.data_root)
    other = replace(made, training=replace(made.training, seed=1))
    names = [run_name(request(one, trained_run.data_root, out), plan) for one in (made, other)]
    assert names[0] == result["run"] != names[1]


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


def test_a_published_recipe_trains_in_small_from_a_backbone_file(voc):
    recipe = small_voc_r50(voc)
    assert len(seen_names(recipe, plan_of(recipe, voc))) == 15
    state = trained_in_a_loop(recipe, voc)[0].state_dict()
    started = torch.load(voc / "resnet.pth", weights_only=True)
    moved = {name: float((state[f"backbone.{name}"] - started[name]).abs().max())
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
