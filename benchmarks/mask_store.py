"""Which mask store to take: bytes, labels kept, scores kept and time, for several ways to keep soft masks.

    zs3 segment --images PHOTOGRAPHS --checkpoint zs3-mini --store lossless --out kept/
    python benchmarks/mask_store.py --segments kept/ --dataset voc --root VOC2012/ --split val

The photographs are those of the data set's split, or some of them. Every candidate keeps the masks of the lossless
table, and the labels that come of them are compared with those of the lossless masks. The last lines are whole rows of
the table: masks and rounded embeddings.
"""

from __future__ import annotations

import io
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import tyro
from deltalake import DeltaTable
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask

from pipelines.storage.objects import read_bytes
from pipelines.tables.delta_reader import delta_uri, provenance_of, table_uri
from zs3.checkpoint import load_checkpoint
from zs3.classification.classifier import SegmentClassifier
from zs3.datasets import open_dataset, read_truth
from zs3.masks.compact import STEP, decode_low_rank, encode_low_rank
from zs3.masks.store import STORES, Masks, MaskStore
from zs3.metrics import PROTOCOLS, Confusion, confusion, scores, total
from zs3.segmentation.segments import Segments
from zs3.segmentation.table import segments_at, segments_row
from zs3.tables import SEGMENTS

KIB = 1024


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure on."""

    segments: str
    """The --out of `zs3 segment --store lossless`."""
    dataset: str = "voc"
    """Layout of the data set."""
    root: str
    """Its folder."""
    split: str = "val"
    """Its split."""
    limit: int | None = None
    """Photographs to take."""


def main() -> int:
    """Measure and print one line of JSON per candidate."""
    options = tyro.cli(Options, description=__doc__)
    torch.set_num_threads(1)
    table = DeltaTable(delta_uri(table_uri(options.segments, "segments")))
    rows = table.to_pyarrow_table().slice(0, options.limit)
    dataset = open_dataset(options.dataset, options.root, options.split)
    truths = {ref.id: ref.truth_uri for ref in dataset.refs}
    checkpoint = load_checkpoint(provenance_of(table)["checkpoint"])
    classifier = SegmentClassifier(checkpoint, dataset.vocabulary, device=torch.device("cpu"))
    held = [segments_at(rows, index) for index in range(rows.num_rows)]
    reference = [classifier.name(segments)[0] for segments in held]
    truth = [
        read_truth(options.dataset, read_bytes(truths[image_id]), dataset.vocabulary)
        for image_id in rows["image_id"].to_pylist()
    ]

    def scored(maps: list[NDArray[np.int32]]) -> tuple[float, float, float]:
        ignore = dataset.vocabulary.ignore_id
        parts: list[Confusion] = [confusion(t, p, ignore_id=ignore) for t, p in zip(truth, maps, strict=True)]
        found = scores(total(parts), dataset.vocabulary.classes, PROTOCOLS["zs3"])
        return found.seen, found.unseen, found.all

    base = scored(reference)
    for name, kept, sizes, encode_s, decode_s in measured(held):
        maps = [classifier.name(segments)[0] for segments in kept]
        same = [float((m == r).mean()) for m, r in zip(maps, reference, strict=True)]
        pixels = sum(int((m == r).sum()) for m, r in zip(maps, reference, strict=True))
        line = {
            "store": name,
            "kib_per_image": round(sum(sizes) / len(sizes) / KIB, 1),
            "largest_kib": round(max(sizes) / KIB, 1),
            "pixels_same_percent": round(100 * pixels / sum(r.size for r in reference), 4),
            "worst_image_percent": round(100 * min(same), 3),
            "miou_change": [round(now - then, 3) for now, then in zip(scored(maps), base, strict=True)],
            "encode_ms": round(1000 * encode_s / len(held), 2),
            "decode_ms": round(1000 * decode_s / len(held), 2),
        }
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()
    return 0


def measured(held: list[Segments]) -> Iterator[tuple[str, list[Segments], list[int], float, float]]:
    """Per candidate: its name, the segments as they come back, bytes of each image, seconds to encode and to decode."""
    for name, store in candidates().items():
        shown = [_shown(segments) for segments in held]
        began = time.perf_counter()
        data = [store.encode(masks) for masks in shown]
        encoded = time.perf_counter()
        back = [store.decode(one, masks.shape) for one, masks in zip(data, shown, strict=True)]
        decoded = time.perf_counter()
        kept = []
        for segments, masks in zip(held, back, strict=True):
            whole = segments.mask_logits_Khw.clone()
            whole[:, : masks.shape[1], : masks.shape[2]] = torch.from_numpy(masks)
            kept.append(replace(segments, mask_logits_Khw=whole))
        yield name, kept, [len(one) for one in data], encoded - began, decoded - encoded
    for name in STORES:
        began = time.perf_counter()
        rows = [segments_row("a", "a", segments, 0.0, "r", store=name) for segments in held]
        table = pa.Table.from_pylist(rows, schema=SEGMENTS)
        encoded = time.perf_counter()
        kept = [segments_at(table, index) for index in range(table.num_rows)]
        decoded = time.perf_counter()
        buffer = pa.BufferOutputStream()
        pq.write_table(table, buffer, compression="zstd")
        size = buffer.getvalue().size // len(held)
        yield f"row: {name}", kept, [size] * len(held), encoded - began, decoded - encoded


def candidates() -> dict[str, MaskStore]:
    """The ways to keep masks that were compared."""
    return {
        "lossless": STORES["lossless"],
        **{f"planes, step {step}": planes(step) for step in (0.05, STEP, 0.125, 0.14, 0.2, 0.4)},
        **{f"{count} levels, zstd": levels(count, zstd_rows, unzstd_rows) for count in (256, 128, 64)},
        **{f"{count} levels, WebP": levels(count, webp_stack, unwebp_stack) for count in (256, 128, 64)},
        **{f"run lengths at {count} levels": run_lengths(count) for count in (5, 9, 17)},
    }


def planes(step: float) -> MaskStore:
    """Planes that the masks are mixed of, rounded to steps."""
    return MaskStore(encode=lambda masks: encode_low_rank(masks, step), decode=decode_low_rank)


def levels(
    count: int,
    pack: Callable[[NDArray[np.uint8]], bytes],
    unpack: Callable[[bytes, tuple[int, ...]], NDArray[np.uint8]],
) -> MaskStore:
    """Logits within ±20 in 8-bit levels that lie closer together near 0 (inverse hyperbolic sine, scale 2)."""
    top = float(np.arcsinh(20 / 2))
    scale = (count - 1) / (2 * top)

    def encode(masks: Masks) -> bytes:
        return pack(np.rint((np.clip(np.arcsinh(masks / 2), -top, top) + top) * scale).astype(np.uint8))

    def decode(data: bytes, shape: tuple[int, int, int]) -> Masks:
        return (2 * np.sinh(unpack(data, shape) / scale - top)).astype(np.float32)

    return MaskStore(encode=encode, decode=decode)


def zstd_rows(values: NDArray[np.uint8]) -> bytes:
    """Differences between rows, compressed."""
    rows = np.diff(values, axis=1, prepend=np.uint8(0))
    return bytes(pa.Codec("zstd", compression_level=9).compress(rows.tobytes(), asbytes=True))


def unzstd_rows(data: bytes, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """What `zstd_rows` was given."""
    rows = np.frombuffer(pa.Codec("zstd").decompress(data, int(np.prod(shape)), asbytes=True), np.uint8)
    return np.cumsum(rows.reshape(shape), axis=1, dtype=np.uint8)


def webp_stack(values: NDArray[np.uint8]) -> bytes:
    """All masks below each other in one lossless WebP picture."""
    file = io.BytesIO()
    Image.fromarray(values.reshape(-1, values.shape[2])).save(
        file, "WEBP", lossless=True, quality=30, method=2
    )
    return file.getvalue()


def unwebp_stack(data: bytes, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """What `webp_stack` was given."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))[..., 1].reshape(shape)


def run_lengths(count: int) -> MaskStore:
    """COCO's compressed run lengths of every mask above some levels, evenly spaced over logits within ±10."""
    edges = np.linspace(-10, 10, count + 2)[1:-1]
    values = np.concatenate([[edges[0] - 4], (edges[1:] + edges[:-1]) / 2, [edges[-1] + 4]]).astype(
        np.float32
    )

    def encode(masks: Masks) -> bytes:
        above = [np.asfortranarray(np.moveaxis(masks > edge, 0, 2), dtype=np.uint8) for edge in edges]
        codes = [code["counts"] for level in above for code in coco_mask.encode(level)]
        lengths = np.array([len(code) for code in codes], np.uint32)
        return bytes(pa.Codec("zstd").compress(lengths.tobytes() + b"".join(codes), asbytes=True)) + bytes(
            np.array([4 * len(codes) + int(lengths.sum()), len(codes)], np.uint32)
        )

    def decode(data: bytes, shape: tuple[int, int, int]) -> Masks:
        size, number = (int(value) for value in np.frombuffer(data[-8:], np.uint32))
        whole = pa.Codec("zstd").decompress(data[:-8], size, asbytes=True)
        ends = 4 * number + np.cumsum(np.frombuffer(whole[: 4 * number], np.uint32))
        codes = [whole[start:end] for start, end in zip([4 * number, *ends[:-1]], ends, strict=True)]
        regions = coco_mask.decode([{"size": list(shape[1:]), "counts": code} for code in codes])
        passed = np.moveaxis(regions, 2, 0).reshape(len(edges), *shape).sum(axis=0)
        return np.asarray(values[passed])

    return MaskStore(encode=encode, decode=decode)


def _shown(segments: Segments) -> Masks:
    """The cells that the picture covers, as the stores get them."""
    masks = segments.mask_logits_Khw.numpy()
    rows, columns = (
        min(cells, int((resized - 0.5) * cells / padded + 0.5) + 2)
        for cells, padded, resized in zip(
            masks.shape[1:], segments.padded_hw, segments.resized_hw, strict=True
        )
    )
    return np.ascontiguousarray(masks[:, :rows, :columns])


if __name__ == "__main__":
    sys.exit(main())
