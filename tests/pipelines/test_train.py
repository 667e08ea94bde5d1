"""Training through Ray: it ends with a checkpoint, goes on after a killed worker, and does nothing twice."""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.train import TrainRequest, Workers, train
from zs3.checkpoint import load_checkpoint
from zs3.images import encode_label_png

QUICK = Workers(threads=1, cpus_per_worker=0.5, decode_tasks=1, report_every_s=0.0)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """A folder data set of coloured rectangles: two seen classes, an unseen one, and background."""
    from PIL import Image

    root = tmp_path_factory.mktemp("data")
    folder = root / "shapes"
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    rng = np.random.default_rng(0)
    colours = {1: (220, 40, 40), 2: (40, 60, 220), 3: (40, 200, 60)}
    for number in range(8):
        image = np.full((72, 80, 3), 128, dtype=np.uint8)
        mask = np.zeros((72, 80), dtype=np.uint8)
        for class_id, colour in colours.items():
            top, left = int(rng.integers(0, 40)), int(rng.integers(0, 50))
            image[top : top + 30, left : left + 28], mask[top : top + 30, left : left + 28] = colour, class_id
        Image.fromarray(image).save(folder / "images" / f"{number}.png")
        (folder / "masks" / f"{number}.png").write_bytes(encode_label_png(mask))
    roles = ["background", "seen", "seen", "unseen"]
    names = ["background", "apple", "sky", "tree"]
    entries = [{"id": i, "name": n, "role": r} for i, (n, r) in enumerate(zip(names, roles))]
    (folder / "classes.json").write_text(json.dumps({"classes": entries, "ignore_index": 255}))
    (folder / "splits.json").write_text(json.dumps({"train": [str(n) for n in range(8)]}))
    return root


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
    from pipelines.train import run_name
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
