"""What an evaluation leaves behind: the table `scores`, provenance, and the reports."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from importlib.metadata import version
from typing import Any

import pyarrow as pa
from deltalake import write_deltalake
from deltalake.exceptions import DeltaError

from pipelines.evaluation.ground_truth import Truth
from pipelines.storage.atomic import write_whole
from pipelines.tables.delta_reader import table_uri
from pipelines.tables.delta_writer import storage_options
from pipelines.tables.label_table import Labels
from zs3.datasets import Dataset
from zs3.report import markdown, page
from zs3.report.gallery import GalleryItem
from zs3.tables import SCORES


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
    truth: Truth,
    root: str,
    settings: Mapping[str, Any],
    truth_digests: Iterable[tuple[str, str]],
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
        "dataset": dataset_provenance(truth, root, truth.images, truth_digests),
        "versions": {
            "python": platform.python_version(),
            **{
                name: version(name)
                for name in ("zs3", "ray", "torch", "numpy", "pillow", "pyarrow", "deltalake")
            },
        },
    }


def dataset_provenance(
    dataset: Dataset | Truth, root: str, images: int, truth_digests: Iterable[tuple[str, str]]
) -> dict[str, Any]:
    """Which split was scored, and a digest of its truth.

    Args:
        dataset: its layout, split and class list.
        root: of the data set.
        images: in the split.
        truth_digests: (image id, SHA-256 (hex) of its truth file), in order of ids.
    """
    truth = hashlib.sha256()
    for image_id, digest in truth_digests:
        truth.update(f"{image_id}\0{digest}\n".encode())
    return {
        "layout": dataset.name,
        "root": root,
        "split": dataset.split,
        "images": images,
        "vocabulary": dataset.vocabulary.digest,
        "truth": truth.hexdigest(),
    }
