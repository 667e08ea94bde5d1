"""What an evaluation leaves behind: the table `scores`, pictures, provenance, and the reports."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import write_deltalake
from deltalake.exceptions import DeltaError

from pipelines.commit import storage_options, table_uri
from pipelines.labels import Labels, rows_of_image
from pipelines.sources import read_bytes
from pipelines.whole_files import write_whole
from zs3.datasets import Dataset, ImageRef, read_truth
from zs3.evaluating import gallery_item, predicted_ids
from zs3.images import decode
from zs3.metrics.intervals import BLOCK
from zs3.report import markdown, page
from zs3.report.overlays import GalleryItem
from zs3.tables import SCORES
from zs3.vocabulary import Vocabulary


def commit_scores(out: str, rows: pa.RecordBatchReader, origin: Mapping[str, Any]) -> None:
    """Write the table `scores` under `out` in one commit, replacing what was there.

    Args:
        out: folder or uri of the evaluation.
        rows: in the schema `SCORES`.
        origin: what the table says of its making.

    Raises:
        ValueError: the table cannot be written.
    """
    uri = table_uri(out, "scores")
    told = {name.decode(): value.decode() for name, value in (SCORES.metadata or {}).items()}
    try:
        write_deltalake(
            uri,
            rows,
            mode="overwrite",
            schema_mode="overwrite",
            name="scores",
            description=json.dumps({**told, **origin}, ensure_ascii=False),
            storage_options=storage_options(uri),
        )
    except (DeltaError, OSError) as error:
        raise ValueError(f"cannot write the table {uri}: {error}; is the folder writable?") from error


def scores_by_id(waiting: Path) -> Iterator[pa.Table]:
    """Rows of `scores` in blocks, by image id whatever their order in the file, which stays on disk."""
    with pa.memory_map(str(waiting)) as file:
        rows = pa.ipc.open_stream(file).read_all()
        yield from in_order(rows)


def in_order(rows: pa.Table) -> Iterator[pa.Table]:
    """Blocks of rows by image id."""
    order = pc.sort_indices(rows["image_id"])
    for start in range(0, rows.num_rows, BLOCK):
        yield rows.take(order.slice(start, BLOCK))


def gallery(
    sources: Sequence[tuple[str, str, str | list[dict[str, Any]]]],
    dataset: Dataset,
    matches: Mapping[str, int],
) -> list[GalleryItem]:
    """Pictures of some images, without those whose photograph cannot be read.

    Args:
        sources: image id, why it was chosen, and the file that holds its labels, or its label rows.
        dataset: the data set.
        matches: labelled name -> class id of the data set.
    """
    import ray

    refs = {ref.id: ref for ref in dataset.refs}
    draw = ray.remote(_picture)
    drawn = [
        draw.remote(refs[image_id], kind, source, dataset.name, dataset.vocabulary, matches)
        for image_id, kind, source in sources
    ]
    return [item for item in ray.get(drawn) if item is not None]


def write_report(out: str, report: Mapping[str, Any], pictures: Sequence[GalleryItem]) -> None:
    """report.html, report.md and report.json under `out`; each appears whole, JSON last."""
    texts = {
        "report.html": page.render(report, pictures),
        "report.md": markdown.render(report),
        "report.json": json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False) + "\n",
    }
    for name, text in texts.items():
        write_whole(table_uri(out, name), text.encode())


def provenance(
    labels: Labels,
    dataset: Dataset,
    root: str,
    settings: Mapping[str, Any],
    truth_digests: Mapping[str, str],
    now: datetime,
) -> dict[str, Any]:
    """Where the numbers come from: settings, versions, and digests of labels and truth."""
    return {
        "evaluated_at": now.isoformat(timespec="seconds"),
        "settings": dict(settings),
        "labels": {
            "uri": labels.uri,
            "version": labels.version,
            "rows": labels.rows,
            "runs": list(labels.runs),
            **labels.provenance,
        },
        "dataset": dataset_provenance(dataset, root, truth_digests),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("zs3", "ray", "numpy", "pyarrow", "deltalake")},
        },
    }


def dataset_provenance(dataset: Dataset, root: str, truth_digests: Mapping[str, str]) -> dict[str, Any]:
    """Which split was scored, and a digest of its truth.

    Args:
        truth_digests: image id → SHA-256 (hex) of its truth file.
    """
    truth = hashlib.sha256()
    for image_id, digest in sorted(truth_digests.items()):
        truth.update(f"{image_id}\0{digest}\n".encode())
    return {
        "layout": dataset.name,
        "root": root,
        "split": dataset.split,
        "images": len(dataset.refs),
        "vocabulary": dataset.vocabulary.digest,
        "truth": truth.hexdigest(),
    }


def _picture(
    ref: ImageRef,
    kind: str,
    source: str | list[dict[str, Any]],
    layout: str,
    vocabulary: Vocabulary,
    matches: Mapping[str, int],
) -> GalleryItem | None:
    """One image of the gallery, or none if its photograph cannot be shown beside its truth."""
    assert ref.truth_uri is not None
    try:
        photo_HW3 = decode(read_bytes(ref.image_uri))
    except (ValueError, OSError):
        return None
    truth_HW = read_truth(layout, read_bytes(ref.truth_uri), vocabulary)
    if photo_HW3.shape[:2] != truth_HW.shape:
        return None
    rows = rows_of_image(source, ref.id) if isinstance(source, str) else source
    prediction_HW = predicted_ids(rows, matches)
    return gallery_item(photo_HW3, truth_HW, prediction_HW, vocabulary, image_id=ref.id, kind=kind)
