"""How well encoders name segments whose masks are true: naming quality alone, without the segmenter.

    python benchmarks/model/naming_on_true_masks.py --root DATA [--split val] [--limit 300] [--cache FOLDER]

DATA holds voc_mini, msrc_mini and coco_things_mini. Every class region of at least 0.4 % of its photograph is
one segment, to be named among all candidate classes of its data set. Prints, for each way of naming and each
set:

* accuracy: mean over classes of the share of segments named right (persons, faces and bodies apart: ImageNet
  has no such class);
* unseen: the same over classes unseen in any of the sets, and IoU: their mean intersection over union, each
  segment counting with its pixels;
* NLL: mean negative log-likelihood of the true class at the encoder's own logit scale.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from zs3.config import digest_of
from zs3.datasets import Dataset, open_dataset, read_truth
from zs3.encoders import Encoder, EncoderConfig, load_encoder
from zs3.encoders.imagenet_words import ImageNetWords
from zs3.encoders.masked_crops import Style, boxes_from_masks, masked_crops
from zs3.images.codec import decode
from zs3.text.bank import text_bank
from zs3.vocabulary import concept, unseen_everywhere

SETS = (("voc", "voc_mini"), ("folder", "msrc_mini"), ("folder", "coco_things_mini"))
MIN_SHARE = 0.004
NO_IMAGENET_CLASS = {"person", "face", "body"}
FIVE: tuple[Style, ...] = (
    "crop_and_mask",
    "square_and_dim",
    "crop_and_blur",
    "square_and_mask",
    "crop_and_dim",
)
ALL_STYLES: tuple[Style, ...] = (*FIVE, "crop", "square")
CHOICES: tuple[tuple[Style, ...], ...] = (
    *((style,) for style in ALL_STYLES),
    FIVE[:2],
    FIVE[:3],
    FIVE[:4],
    ("crop_and_mask", "square_and_mask", "crop_and_dim", "square_and_dim"),
    FIVE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Segments:
    """The true segments of one data set under one encoder."""

    views: dict[Style, torch.Tensor]
    """(K, E) unit rows by crop style."""
    truth: torch.Tensor
    """(K,) index of the true class among the candidates."""
    area: torch.Tensor
    """(K,) pixels."""


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path, required=True, help="folder of the three data sets")
    parser.add_argument("--split", default="val")
    parser.add_argument("--limit", type=int, default=1000, help="photographs of each set")
    parser.add_argument("--cache", type=Path, help="keep embeddings here, to change only the text side")
    options = parser.parse_args(argv)
    encoder = load_encoder(EncoderConfig(), device=torch.device("cpu"))
    assert isinstance(encoder, ImageNetWords)
    datasets = [open_dataset(layout, str(options.root / name), options.split) for layout, name in SETS]
    unseen = unseen_everywhere([dataset.vocabulary for dataset in datasets])
    for (_, name), dataset in zip(SETS, datasets):
        segments = cached_segments(name, dataset, encoder, options.limit, options.cache)
        line(f"\n{name} {options.split}: {len(segments.truth)} segments")
        line(f"{'naming':112s} accuracy unseen   IoU   NLL")
        entries = dataset.vocabulary.candidates
        flags = torch.tensor([concept(entry.name) in unseen for entry in entries])
        for synonyms in (True, False):
            bank = text_bank(
                entries, encoder, templates="plain", seen=[True] * len(entries), synonyms=synonyms
            )
            rows = torch.from_numpy(bank.embeddings)
            for styles in CHOICES if synonyms else (FIVE,):
                views = torch.stack([segments.views[style] for style in styles])
                scores = encoder.logit_scale * encoder.average_views(views) @ rows.T
                label = ("words: " if synonyms else "words, no synonyms: ") + " + ".join(styles)
                line(f"{label:112s} {measured(scores, segments, dataset, flags)}")
        for style in ("crop_and_mask", "crop"):
            scores = conse(segments.views[style], encoder, [entry.name for entry in entries])
            line(f"{f'ConSE, top 10: {style}':112s} {measured(scores, segments, dataset, flags)}")
    return 0


def true_segments(dataset: Dataset, limit: int) -> Iterator[tuple[np.ndarray, np.ndarray, list[int]]]:
    """Pixels, class ids and the ids of candidate classes with enough pixels, of each photograph."""
    ids = {entry.id for entry in dataset.vocabulary.candidates}
    for ref in dataset.refs[:limit]:
        assert ref.truth_uri is not None
        pixels = decode(Path(ref.image_uri).read_bytes())
        truth_HW = read_truth(dataset.name, Path(ref.truth_uri).read_bytes(), dataset.vocabulary)
        values, counts = np.unique(truth_HW, return_counts=True)
        enough = counts >= MIN_SHARE * truth_HW.size
        yield pixels, truth_HW, [int(value) for value in values[enough] if int(value) in ids]


def embedded_segments(dataset: Dataset, encoder: Encoder, limit: int) -> Segments:
    """Every true segment of the first photographs, seen in every crop style."""
    index = {entry.id: i for i, entry in enumerate(dataset.vocabulary.candidates)}
    mean, std = (torch.tensor(values)[:, None, None] for values in (encoder.image_mean, encoder.image_std))
    rows: dict[Style, list[torch.Tensor]] = {style: [] for style in ALL_STYLES}
    truth, area = [], []
    for pixels, truth_HW, ids in true_segments(dataset, limit):
        if not ids:
            continue
        image = (torch.from_numpy(pixels).permute(2, 0, 1).float() - mean) / std
        masks = torch.stack([torch.from_numpy(truth_HW == class_id) for class_id in ids])
        boxes = boxes_from_masks(masks)
        for style in ALL_STYLES:
            crops = masked_crops(image, masks, boxes, encoder.image_size_px, style)
            rows[style].append(encoder.encode_images(crops))
        truth += [index[class_id] for class_id in ids]
        area += masks.sum((1, 2)).tolist()
    return Segments(
        views={style: torch.cat(parts) for style, parts in rows.items()},
        truth=torch.tensor(truth),
        area=torch.tensor(area, dtype=torch.float64),
    )


def cached_segments(
    name: str, dataset: Dataset, encoder: ImageNetWords, limit: int, folder: Path | None
) -> Segments:
    """The same, read from the cache where it has them."""
    digest = digest_of(asdict(encoder.config))[:16]
    path = None if folder is None else folder / f"{name}-{dataset.split}-{limit}-{digest}.pt"
    if path is not None and path.exists():
        return Segments(**torch.load(path, weights_only=True))
    segments = embedded_segments(dataset, encoder, limit)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"views": segments.views, "truth": segments.truth, "area": segments.area}, path)
    return segments


def conse(rows_KW: torch.Tensor, encoder: ImageNetWords, names: list[str]) -> torch.Tensor:
    """(K, C) scaled cosines of ConSE: the mean of MiniLM's word vectors under the ten likeliest classes."""
    from zs3.encoders.wordnet import imagenet_classes

    config = encoder.config
    posterior_KW = rows_KW.pow(config.image_temperature / config.power)
    posterior_KW = posterior_KW * (posterior_KW >= posterior_KW.topk(10, dim=-1).values[:, -1:])
    words_WD = encoder.sentences.encode([synset.words[0] for synset in imagenet_classes()])
    means_KD = torch.nn.functional.normalize(posterior_KW @ words_WD, dim=-1)
    return encoder.logit_scale * means_KD @ encoder.sentences.encode(names).T


def measured(scores_KC: torch.Tensor, segments: Segments, dataset: Dataset, unseen_C: torch.Tensor) -> str:
    """Accuracy, accuracy and IoU of unseen classes, and the likelihood, as one line."""
    names = [entry.name for entry in dataset.vocabulary.candidates]
    count = len(names)
    cell = segments.truth * count + scores_KC.argmax(dim=-1)
    segments_CC = torch.bincount(cell, minlength=count * count).view(count, count).double()
    pixels_CC = torch.bincount(cell, weights=segments.area, minlength=count * count).view(count, count)
    present = segments_CC.sum(1) > 0
    accuracy = segments_CC.diag() / segments_CC.sum(1)
    iou = pixels_CC.diag() / (pixels_CC.sum(0) + pixels_CC.sum(1) - pixels_CC.diag())
    ours = torch.tensor([name not in NO_IMAGENET_CLASS for name in names]) & present
    hidden = unseen_C & present
    nll = torch.nn.functional.cross_entropy(scores_KC, segments.truth)
    return (
        f"{100 * accuracy[ours].mean():8.1f} {100 * accuracy[hidden].mean():6.1f} "
        f"{100 * iou[hidden].mean():5.1f} {nll:5.2f}"
    )


def line(text: str) -> None:
    """One line of the table."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main())
