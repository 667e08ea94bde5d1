"""External masks for `segment`: what lies at a uri, which image each mask belongs to, and reading them with the images.

A file is COCO JSON: `images` and `annotations`, or a list of results. A folder holds either one label PNG per image,
`<image id>.png`, or one folder per image with one PNG per mask, `<image id>/<anything>.png`.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import fsspec
import pyarrow as pa

from pipelines.labelling.image_stage import PARALLEL_READS, PIXELS, read_and_decode
from pipelines.runs.rows import failure_of
from pipelines.storage.objects import read_bytes, uri_of
from zs3.files import filesystem_of
from zs3.images.codec import Alpha, ImageError, decode_label_png
from zs3.masks.binary import pack_masks
from zs3.masks.external import (
    ExternalMaskError,
    mask_values,
    masks_of_coco,
    masks_of_label_png,
    masks_of_pngs,
)
from zs3.masks.external_index import ImagesByName, ReadAnnotations, coco_segmentations, no_image_error

logger = logging.getLogger(__name__)

MAX_LOOKED_AT = 1000
"""PNGs that are read for one with a mask, before a run begins."""

CHECKSUMS = ("ETag", "md5Hash")
"""Keys of a listing in which object stores (S3, Google Cloud Storage) give a checksum; such files need no reading."""

PIXELS_AND_MASKS = PIXELS.append(pa.field("masks", pa.large_binary()))
"""`PIXELS`, and the masks of the image as `zs3.masks.binary.pack_masks` packs them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExternalMasks:
    """The masks that lie at a uri, by image."""

    kind: str
    """What they are, for people."""
    digest: str
    """SHA-256 of all that lies there, including masks of other images."""
    of_image: Mapping[str, str]
    """Image id → JSON for `read_with_masks`; images without masks have no entry."""


def list_masks(source: str, ids: Collection[str]) -> ExternalMasks:
    """The masks at `source` for images of these ids; warns of what is used in part or not at all.

    `zs3.masks.external_index` says which file is for which image.

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: it has none of the three forms, or holds no mask for any of these images.
    """
    filesystem, path = filesystem_of(source)
    if filesystem.isdir(path):
        return _masks_in_folder(source, filesystem, path, ids)
    if not filesystem.exists(path):
        raise FileNotFoundError(
            f"no masks at {source!r}; expected COCO's JSON, a folder of label PNGs, or one with a folder for each image"
        )
    data, read = read_bytes(source), ReadAnnotations()
    segmentations_of = coco_segmentations(source, data, ids, read)
    for line in read.lines():
        logger.warning("zs3: warning: %s: %s", source, line)
    return ExternalMasks(
        kind="COCO's JSON",
        digest=hashlib.sha256(data).hexdigest(),
        of_image={
            image_id: json.dumps({"source": source, "segmentations": segmentations, "size": size})
            for image_id, (segmentations, size) in segmentations_of.items()
        },
    )


def read_with_masks(
    refs: pa.Table, *, max_pixels: int, run: str, alpha: Alpha = "white", journal_id: str | None = None
) -> Iterator[pa.Table]:
    """As `read_and_decode`, with rows of `PIXELS_AND_MASKS`; an image whose masks cannot be used becomes a failure.

    Args:
        refs: columns image_id, uri, and masks_at: JSON of `ExternalMasks.of_image`, empty where there is none.
        max_pixels: images and masks of more pixels are refused before they are decoded.
        run, alpha, journal_id: as for `read_and_decode`.
    """
    places = [json.loads(text) if text else None for text in refs["masks_at"].to_pylist()]
    with ThreadPoolExecutor(PARALLEL_READS) as pool:
        contents = pool.map(_contents, places)
        pictures = read_and_decode(refs, max_pixels=max_pixels, run=run, alpha=alpha, journal_id=journal_id)
        for picture, place, content in zip(pictures, places, contents, strict=True):
            (row,) = picture.drop_columns("pixels").to_pylist()
            row |= {"pixels": picture["pixels"][0].as_py(), "masks": b""}
            if not row["failures"]:
                try:
                    row["masks"] = _packed_masks(row, place, content, max_pixels)
                except Exception as error:  # one image's masks must not stop the others
                    row |= {"pixels": b"", "failures": [failure_of(row, "masks", error, run)]}
            yield pa.Table.from_pylist([row], schema=PIXELS_AND_MASKS)


def _packed_masks(
    row: Mapping[str, Any],
    place: Mapping[str, Any] | None,
    content: list[bytes] | Exception,
    max_pixels: int,
) -> bytes:
    """The masks of one image, as `pack_masks` packs them."""
    if place is None:
        raise ExternalMaskError(
            "missing",
            f"--masks has none for image {row['image_id']!r}; add them, or leave the image out of --images",
        )
    if isinstance(content, Exception):
        raise content
    size = (row["height"], row["width"])
    if "segmentations" in place:
        name = f"{place['source']}, image {row['image_id']!r}"
        masks = masks_of_coco(place["segmentations"], size, name, json_hw=place["size"])
    elif "label" in place:
        masks = masks_of_label_png(content[0], size, place["label"], max_pixels=max_pixels)
    else:
        files = list(zip(place["masks"], content, strict=True))
        masks = masks_of_pngs(files, size, max_pixels=max_pixels)
    return pack_masks(masks)


def _contents(place: Mapping[str, Any] | None) -> list[bytes] | Exception:
    """The files of one image's masks, or the error that reading them raised."""
    files = place or {}
    try:
        return [read_bytes(uri) for uri in ([files["label"]] if "label" in files else files.get("masks", []))]
    except Exception as error:  # each storage library raises its own
        return error


def _masks_in_folder(
    source: str, filesystem: fsspec.AbstractFileSystem, path: str, ids: Collection[str]
) -> ExternalMasks:
    """The PNGs below a folder, by image."""
    root = path.rstrip("/")
    files = {name[len(root) + 1 :]: info for name, info in filesystem.find(root, detail=True).items()}
    pngs = {
        name: (uri_of(filesystem, f"{root}/{name}"), info)
        for name, info in sorted(files.items())
        if name.lower().endswith(".png") and not any(part.startswith(".") for part in name.split("/"))
    }
    id_of_name = ImagesByName(ids)
    labels: dict[str, str] = {}
    masks: dict[str, list[str]] = {}
    for name, (uri, _) in pngs.items():
        stem = name[: -len(".png")]
        if (image_id := id_of_name.get(stem)) is not None:
            if image_id not in labels or id_of_name.exact(stem):
                labels[image_id] = uri
        elif (image_id := id_of_name.get(name.rpartition("/")[0])) is not None:
            masks.setdefault(image_id, []).append(uri)
    if not pngs:
        raise ValueError(
            f"no PNG below {source!r}; expected <image id>.png, or a folder <image id> with a PNG for each mask"
        )
    if labels and masks:
        raise ValueError(
            f"{source!r} holds both label PNGs ({next(iter(labels.values()))}) and folders of masks "
            f"({next(iter(masks.values()))[0]}); give a folder of one kind"
        )
    if not labels and not masks:
        raise no_image_error(source, [name[: -len(".png")] for name in pngs], ids)
    _refuse_empty(
        source, list(labels.values()) or [uri for uris in masks.values() for uri in uris], bool(labels)
    )
    digests = list(zip(pngs, _file_digests(list(pngs.values()))))
    return ExternalMasks(
        kind="label PNGs" if labels else "a PNG for each mask",
        digest=hashlib.sha256(json.dumps(digests).encode()).hexdigest(),
        of_image={image_id: json.dumps({"label": uri}) for image_id, uri in labels.items()}
        | {image_id: json.dumps({"masks": uris}) for image_id, uris in masks.items()},
    )


def _refuse_empty(source: str, uris: Sequence[str], are_labels: bool) -> None:
    """Raise if none of the PNGs has a mask; only the first `MAX_LOOKED_AT` are read."""
    for uri in uris[:MAX_LOOKED_AT]:
        try:
            data = read_bytes(uri)
            labels_HW = decode_label_png(data)
        except (ImageError, OSError):  # becomes a failure of its image
            return
        if mask_values(labels_HW, data) if are_labels else labels_HW.any():
            return
    if len(uris) <= MAX_LOOKED_AT:
        expected = "a value above 0 that is not the ignore value" if are_labels else "a pixel above 0"
        raise ValueError(
            f"the {len(uris)} PNGs below {source!r} give no segment for any image: none has {expected}; are these the "
            "masks?"
        )


def _file_digests(files: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
    """The store's checksum of each file, or a digest of its content where the store gives none."""

    def digest(file: tuple[str, Mapping[str, Any]]) -> str:
        uri, info = file
        checksum = next((str(info[key]) for key in CHECKSUMS if info.get(key)), "")
        return checksum or hashlib.sha256(read_bytes(uri)).hexdigest()

    with ThreadPoolExecutor(PARALLEL_READS) as pool:
        return list(pool.map(digest, files))
