"""The comparisons of ZegFormer's paper in small: decoupled or pixel-level, text from image-text or text-only encoders.

    python benchmarks/model/paper_comparisons.py --root DATA --out DIR [--steps N] [--seeds 0 1 2] [--shard 0/2]

DATA holds voc_mini, text/clip_text_vitb16 and text/word_vectors. Every model is trained by the pipeline of `zs3 train`
at an equal budget (crops, batch, steps, schedule, backbone and its weights) and scored on the same pictures; a finished
run is not trained again, nor a finished evaluation made again. Two shards in two processes share two cores. The table
is written from all that is finished in DIR: DIR/comparison.json and DIR/comparison.md, which say what was done.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from comparison_scores import GAMMAS, evaluate, publish, write_report

from pipelines.execution import Execution
from pipelines.ray_session import start_ray
from pipelines.training.train import TrainRequest, Workers, run_name, train
from pipelines.training.worker import TrainingProgress
from zs3.checkpoint import WEIGHTS
from zs3.config import NamingSettings, Recipe, SegmentSettings, TextConfig, digest_of
from zs3.datasets import open_dataset, read_truth
from zs3.encoders import EncoderConfig
from zs3.learning.augmentation import Augmentation
from zs3.learning.losses import LossSettings
from zs3.learning.optimizer import OptimizerSettings
from zs3.learning.samples import training_plan
from zs3.learning.schedule import ScheduleSettings
from zs3.learning.settings import TrainingConfig
from zs3.nets.zegformer import ModelConfig
from zs3.text.stored_banks import class_bank
from zs3.vocabulary import load_vocabulary

SPLIT = "voc_comparison"
GREY = (127.5, 127.5, 127.5)
Names = Literal["clip", "words", "minilm"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """One trained model of the comparison."""

    architecture: Literal["zegformer", "pixel_level"]
    names: Names
    """Which text embeddings its classes have."""
    image_branch: bool = False
    """Whether it is also scored by its image branch, whose names are its own; the crops take most of the time."""


METHODS = {
    "zegformer_clip": Method(architecture="zegformer", names="clip", image_branch=True),
    "pixel_level_clip": Method(architecture="pixel_level", names="clip"),
    "zegformer_words": Method(architecture="zegformer", names="words"),
    "pixel_level_words": Method(architecture="pixel_level", names="words"),
    "zegformer_minilm": Method(architecture="zegformer", names="minilm"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What every method gets alike."""

    steps: int
    crop_px: int
    batch_size: int
    pyramid_dim: int
    short_side_px: int
    """Of the evaluated pictures, as the network sees them."""


def main(argv: Sequence[str] | None = None) -> int:
    """Train and evaluate what is missing, then write the table."""
    options = _options(argv)
    torch.set_num_threads(1)
    budget = Budget(
        steps=options.steps,
        crop_px=options.crops,
        batch_size=options.batch,
        pyramid_dim=options.pyramid,
        short_side_px=options.short_side,
    )
    split = prepare_split(options.root, options.out / "data")
    banks = prepare_banks(options.root, options.out / "banks")
    jobs = [(name, seed) for seed in options.seeds for name in options.only]
    shard, shards = (int(part) for part in options.shard.split("/"))
    for name, seed in jobs[shard::shards]:
        recipe = comparison_recipe(name, seed, budget, banks)
        checkpoint, seconds = trained(recipe, options.out)
        began = time.monotonic()
        place = evaluation_file(options.out, recipe, split, options.limit)
        if not place.exists():
            evaluate(
                checkpoint,
                open_dataset("voc", str(options.out / "data" / SPLIT), "val"),
                place,
                options.limit,
            )
        sys.stderr.write(
            f"{name} seed {seed}: trained in {seconds:.0f} s, evaluated in {time.monotonic() - began:.0f} s\n"
        )
    recipes = {(name, seed): comparison_recipe(name, seed, budget, banks) for name, seed in jobs}
    found = {
        job: evaluation_file(options.out, recipe, split, options.limit) for job, recipe in recipes.items()
    }
    report = write_report(
        options.out,
        {job: place for job, place in found.items() if place.exists()},
        split=split,
        budget=asdict(budget),
        temperatures={name: recipes[name, options.seeds[0]].model.temperature for name in options.only},
        missing=[f"{name} seed {seed}" for (name, seed), place in found.items() if not place.exists()],
    )
    sys.stdout.write(report)
    return 0


def prepare_split(root: Path, out: Path) -> dict[str, object]:
    """A VOC folder of links whose train list holds no picture with an unseen-class pixel; they go to val.

    The val list of voc_mini alone holds one unseen class in six pictures; no evaluated picture is trained on.

    Returns:
        What the report says about it.
    """
    source, target = root.resolve() / "voc_mini", out / SPLIT
    vocabulary = load_vocabulary("voc")
    unseen = [entry.id for entry in vocabulary.classes if entry.role == "unseen"]
    lists: dict[str, list[str]] = {"train": [], "moved": []}
    for ref in open_dataset("voc", str(source), "train").refs:
        assert ref.truth_uri is not None
        truth = read_truth("voc", Path(ref.truth_uri).read_bytes(), vocabulary)
        lists["moved" if np.isin(truth, unseen).any() else "train"].append(ref.id)
    val = [ref.id for ref in open_dataset("voc", str(source), "val").refs]
    for name, ids in (("train", lists["train"]), ("val", sorted([*val, *lists["moved"]]))):
        publish(target / "ImageSets" / "Segmentation" / f"{name}.txt", ("\n".join(ids) + "\n").encode())
    for name in ("JPEGImages", "SegmentationClass"):
        with suppress(FileExistsError):
            (target / name).symlink_to(source / name)
    return {
        "train": len(lists["train"]),
        "evaluated": len(val) + len(lists["moved"]),
        "moved_from_train": len(lists["moved"]),
        "digest": digest_of([sorted(lists["train"]), sorted([*val, *lists["moved"]])]),
    }


def prepare_banks(root: Path, out: Path) -> dict[Names, TextConfig]:
    """Text embeddings by name: CLIP's, fastText beside word2vec (600 numbers, unit length), and MiniLM's encoder."""
    text = root / "text"
    clip_names = json.loads((text / "clip_text_vitb16" / "names.json").read_text())["voc12_single"]
    lines = (text / "word_vectors" / "voc_labels.txt").read_text().splitlines()
    word_names = [line.split("\t")[1] for line in lines]
    parts = [np.load(text / "word_vectors" / f"voc_{kind}.npy") for kind in ("fasttext", "word2vec")]
    unit = [part / np.linalg.norm(part, axis=1, keepdims=True) for part in parts]
    stored = {
        "clip": (clip_names, np.load(text / "clip_text_vitb16" / "voc12_single.npy")),
        "words": (word_names, np.concatenate(unit, axis=1)),
    }
    for kind, (names, rows) in stored.items():
        matrix = io.BytesIO()
        np.save(matrix, rows)
        publish(out / kind / "embeddings.npy", matrix.getvalue())
        publish(out / kind / "names.json", json.dumps(names).encode())
    sentences = EncoderConfig(kind="minilm")
    return {
        "clip": TextConfig(encoder=sentences, embeddings=str(out / "clip"), synonyms=False),
        "words": TextConfig(encoder=sentences, embeddings=str(out / "words"), synonyms=False),
        "minilm": TextConfig(encoder=sentences, synonyms=False),
    }


def comparison_recipe(name: str, seed: int, budget: Budget, banks: dict[Names, TextConfig]) -> Recipe:
    """A recipe of the size of `mini` cut down to the budget, with the method's architecture and text embeddings.

    Written out here, so that no later change of a shipped recipe changes the comparison. The temperature follows one
    rule from the seen classes' embeddings: τ = 0.05 (1 - mean cosine between two of them). It gives CLIP's about the
    published 0.01, and spreads the logits of every kind of text alike.
    """
    method = METHODS[name]
    text = banks[method.names]
    entries = [entry for entry in load_vocabulary("voc").classes if entry.role == "seen"]
    rows = class_bank(text, entries, [True] * len(entries), device=torch.device("cpu")).embeddings
    cosines = (rows @ rows.T)[~np.eye(len(rows), dtype=bool)]
    return Recipe(
        name=f"{name}_{seed}",
        model=ModelConfig(
            architecture=method.architecture,
            backbone="timm:tf_efficientnet_lite0",
            pyramid_dim=budget.pyramid_dim,
            mask_dim=budget.pyramid_dim,
            hidden_dim=192,
            num_queries=32,
            num_heads=6,
            feedforward_dim=768,
            num_layers=4,
            text_dim=rows.shape[1],
            temperature=round(0.05 * (1 - float(cosines.mean())), 4),
            image_mean=GREY,
            image_std=GREY,
        ),
        query_text=text,
        image_text=TextConfig(encoder=EncoderConfig(kind="imagenet_words"), templates="plain", synonyms=True),
        training=TrainingConfig(
            datasets=(("voc", SPLIT),),
            background_is_negative=True,
            steps=budget.steps,
            batch_size=budget.batch_size,
            optimizer=OptimizerSettings(
                learning_rate=4e-4, backbone_multiplier=0.25, weight_decay=0.05, clip_norm=1.0
            ),
            schedule=ScheduleSettings(kind="cosine", warmup_steps=min(50, budget.steps // 4), floor=0.01),
            backbone_weights="efficientnet_lite0",
            frozen=("network.conv_stem", "network.bn1", "network.blocks.0", "network.blocks.1"),
            augmentation=Augmentation(crop_px=budget.crop_px, scale_range=(0.9, 2.0), crop_on_label_tries=8),
            losses=LossSettings(
                mask_weight=20.0, dice_weight=3.0, mask_resolution="prediction", spare_queries_on_void=0.5
            ),
            seed=seed,
            checkpoint_every=200,
        ),
        segmenting=SegmentSettings(
            short_side_px=budget.short_side_px,
            max_side_px=1024,
            crop_empty_masks=False,
            min_share=0.1,
            image_branch=method.image_branch,
        ),
        naming=NamingSettings(),
    )


def run_of(recipe: Recipe, out: Path) -> tuple[TrainRequest, str]:
    """The training of a recipe, and its name, which tells apart whatever makes another model."""
    request = TrainRequest(recipe=recipe, data_root=str(out / "data"), out=str(out / "runs"))
    dataset = open_dataset("voc", f"{request.data_root}/{SPLIT}", recipe.training.split)
    plan = training_plan([dataset], background_is_negative=recipe.training.background_is_negative)
    return request, run_name(request, plan)


def trained(recipe: Recipe, out: Path) -> tuple[str, float]:
    """The checkpoint of a recipe, trained unless it is there, and the seconds that took."""
    request, run = run_of(recipe, out)
    checkpoint = Path(request.out) / run / "checkpoint"
    if (checkpoint / WEIGHTS).exists():
        return str(checkpoint), 0.0
    start_ray(Execution())
    workers = Workers(num_workers=1, threads=1, cpus_per_worker=1, decode_tasks=1, report_every_s=20.0)

    def show(seen: TrainingProgress) -> None:
        speed = f"{seen.images_per_second:.1f} images/s"
        sys.stderr.write(f"{recipe.name} step {seen.step}/{seen.steps} loss {seen.loss:.3f} {speed}\n")

    result = train(request, workers, on_progress=show)
    return result.checkpoint, result.seconds


def evaluation_file(out: Path, recipe: Recipe, split: Mapping[str, object], limit: int | None) -> Path:
    """Where the confusions of a recipe's model are kept; another run, split, size, γ grid or limit is another file."""
    _, run = run_of(recipe, out)
    digest = digest_of([run, split["digest"], asdict(recipe.segmenting), GAMMAS, limit])
    return out / "evaluations" / f"{recipe.name}-{digest[:12]}.npz"


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=400, help="of every training")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--crops", type=int, default=160, help="side of a training crop, in pixels")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--pyramid", type=int, default=64, help="channels of the pixel decoder")
    parser.add_argument("--short-side", type=int, default=224, help="of evaluated pictures, in pixels")
    parser.add_argument("--only", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument(
        "--shard", default="0/1", help="i/n: train and evaluate every n-th model, from the i-th"
    )
    parser.add_argument("--limit", type=int, help="evaluated pictures, for a try; all by default")
    options = parser.parse_args(argv)
    options.out = options.out.resolve()
    return options


if __name__ == "__main__":
    sys.exit(main())
