"""The pictures of a report: the few images of the gallery are opened again, in tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.storage.objects import read_bytes
from pipelines.tables.label_table import rows_of_image
from zs3.datasets import Dataset, ImageRef, read_truth
from zs3.evaluation.matching import predicted_ids
from zs3.images.codec import decode
from zs3.metrics import Protocol
from zs3.report.gallery import GalleryItem, gallery_item, picture_side
from zs3.vocabulary import Vocabulary


def gallery(
    sources: Sequence[tuple[str, str, str | list[dict[str, Any]]]],
    dataset: Dataset,
    matches: Mapping[str, int],
    protocol: Protocol,
) -> list[GalleryItem]:
    """Pictures of some images, the smaller the more there are; without images whose photograph cannot be read.

    Args:
        sources: image id, why it was chosen, and the file that holds its labels, or its label rows.
        dataset: the data set.
        matches: labelled name -> class id of the data set.
        protocol: which pixels count.
    """
    import ray

    refs = {ref.id: ref for ref in dataset.refs}
    task, side_px = ray.remote(_picture), picture_side(len(sources))
    items = [
        task.remote(
            refs[image_id], kind, source, dataset.name, dataset.vocabulary, matches, protocol, side_px
        )
        for image_id, kind, source in sources
    ]
    return [item for item in ray.get(items) if item is not None]


def _picture(
    ref: ImageRef,
    kind: str,
    source: str | list[dict[str, Any]],
    layout: str,
    vocabulary: Vocabulary,
    matches: Mapping[str, int],
    protocol: Protocol,
    side_px: int,
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
    return gallery_item(
        photo_HW3,
        truth_HW,
        predicted_ids(rows, matches),
        vocabulary,
        image_id=ref.id,
        kind=kind,
        protocol=protocol,
        side_px=side_px,
    )
