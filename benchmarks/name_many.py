"""What a further class list costs: naming stored segments against labelling the pictures again, in one process.

    python benchmarks/name_many.py --images PHOTOGRAPHS --checkpoint zs3-mini --limit 20
    python benchmarks/name_many.py --images PHOTOGRAPHS --paper-size --limit 3

Both sides start at files (a photograph; a Parquet file of segments in the compact store) and end at label rows, with
one thread each, so that the ratio is one of processor time. `--paper-size` takes the published model's size (ResNet-50,
100 queries, CLIP ViT-B/16 at 224, short side 640) with random weights, which cost what trained ones do.
"""

from __future__ import annotations

import io
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import tyro

from pipelines.labelling.label import rows_of_map
from pipelines.runs.catalogue import catalogue_of
from pipelines.storage.objects import read_bytes
from zs3.checkpoint import load_checkpoint, save_checkpoint
from zs3.config import NamingSettings, Recipe, SegmentSettings, TextConfig
from zs3.encoders import EncoderConfig
from zs3.images.codec import decode
from zs3.inference.labeller import Labeller
from zs3.learning.settings import TrainingConfig
from zs3.masks.store import COMPACT
from zs3.nets.networks import build_network
from zs3.nets.zegformer import ModelConfig
from zs3.segmentation.table import NEEDED, segments_at, segments_row
from zs3.tables import SEGMENTS
from zs3.vocabulary import load_vocabulary


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure, and on which images."""

    images: str
    """As for `zs3 label`."""
    checkpoint: str = "zs3-mini"
    """As for `zs3 label`."""
    classes: str = "voc"
    """As for `zs3 label`."""
    limit: int = 20
    """Images to take."""
    rounds: int = 5
    """How often the stored segments are named; the median counts."""
    paper_size: bool = False
    """A model of the published size and random weights instead of a checkpoint."""


def main() -> int:
    """Measure and print one line of JSON."""
    options = tyro.cli(Options, description=__doc__)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = paper_size(Path(folder)) if options.paper_size else options.checkpoint
        sys.stdout.write(json.dumps(measured(options, checkpoint)) + "\n")
    return 0


def measured(options: Options, checkpoint: str) -> dict[str, Any]:
    """Seconds per image of both ways, and their ratio."""
    vocabulary = load_vocabulary(options.classes)
    labeller = Labeller(load_checkpoint(checkpoint), vocabulary, device=torch.device("cpu"))
    batches = catalogue_of(options.images, options.limit).rows()
    refs = [(row["image_id"], row["uri"]) for batch in batches for row in batch.to_pylist()]
    kept, labelling = [], []
    labeller.segmenter.segment([decode(read_bytes(refs[0][1]))])  # networks load when they are first used
    for image_id, uri in refs:
        began = time.perf_counter()
        segments = labeller.segmenter.segment([decode(read_bytes(uri))])[0]
        _rows(labeller, image_id, uri, labeller.classifier.name(segments), vocabulary)
        labelling.append(time.perf_counter() - began)
        kept.append(segments_row(image_id, uri, segments, 0.0, "r", store=COMPACT))
    buffer = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(kept, schema=SEGMENTS), buffer, compression="zstd")
    stored = buffer.getvalue().to_pybytes()
    naming = [_named(labeller, stored, vocabulary) for _ in range(options.rounds)]
    label_s, name_s = sum(labelling) / len(labelling), sorted(naming)[len(naming) // 2] / len(refs)
    return {
        "images": len(refs),
        "segments_per_image": round(sum(row["num_segments"] for row in kept) / len(kept), 1),
        "kib_per_image": round(len(stored) / len(refs) / 1024, 1),
        "label_ms": round(1000 * label_s, 1),
        "name_ms": round(1000 * name_s, 2),
        "ratio": round(label_s / name_s, 1),
    }


def _named(labeller: Labeller, stored: bytes, vocabulary: Any) -> float:
    """Seconds from the bytes of a segments file to the label rows of all its images."""
    began = time.perf_counter()
    table = pq.read_table(io.BytesIO(stored), columns=["image_id", "uri", *NEEDED])
    ids, uris = table["image_id"].to_pylist(), table["uri"].to_pylist()
    for index, (image_id, uri) in enumerate(zip(ids, uris, strict=True)):
        _rows(labeller, image_id, uri, labeller.classifier.name(segments_at(table, index)), vocabulary)
    return time.perf_counter() - began


def _rows(labeller: Labeller, image_id: str, uri: str, painted: Sequence[Any], vocabulary: Any) -> None:
    image = {"image_id": image_id, "uri": uri}
    rows_of_map(image, *painted, seen=labeller.seen, vocabulary=vocabulary, run="r")


def paper_size(folder: Path) -> str:
    """A checkpoint of the published model's size with random weights."""
    torch.manual_seed(0)
    weights = folder / "clip.pt"
    torch.save(open_clip.create_model("ViT-B-16", pretrained=None).state_dict(), weights)
    text = TextConfig(encoder=EncoderConfig(kind="open_clip", weights=str(weights)))
    recipe = Recipe(
        name="paper_size",
        model=ModelConfig(),
        query_text=text,
        image_text=text,
        training=TrainingConfig(),
        segmenting=SegmentSettings(),
        naming=NamingSettings(),
    )
    seen = [entry.name for entry in load_vocabulary("voc").candidates[:15]]
    save_checkpoint(folder / "model", recipe, build_network(recipe.model), seen)
    return str(folder / "model")


if __name__ == "__main__":
    sys.exit(main())
