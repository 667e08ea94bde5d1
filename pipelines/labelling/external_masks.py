"""Masks from elsewhere for `segment`: what lies at a uri, which image it is for, and reading it beside the pictures.

Told apart by what is there. A file is COCO's JSON: `images` and `annotations`, or a list of results. A folder holds
either a label PNG for each image, `<image id>.png`, or a folder for each image with a PNG for each mask,
`<image id>/<anything>.png`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import fsspec
import pyarrow as pa

from pipelines.labelling.read_images import PIXELS, READS_AT_ONCE, read_and_decode
from pipelines.runs.rows import failure_of
from pipelines.storage.objects import filesystem_of, read_bytes, uri_of
from zs3.masks.binary import pack_masks
from zs3.masks.external import ProposalError, masks_of_coco, masks_of_label_png, masks_of_pngs
from zs3.masks.external_index import coco_segmentations, names_of, no_image

CHECKSUMS = ("ETag", "md5Hash")
"""What object stores tell of a file's content in a listing (S3, Google Cloud Storage), so that it need not be read."""

GIVEN = PIXELS.append(pa.field("masks", pa.large_binary()))
"""As `PIXELS`, with the masks of the image, as `zs3.masks.binary.pack_masks` packs them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposals:
    """The masks that lie at a uri, by image."""

    kind: str
    """What they are, in words."""
    digest: str
    """SHA-256 of all that lies there, whichever images are asked for."""
    of_image: Mapping[str, str]
    """Image id → JSON that `read_with_masks` understands; images without an entry have no proposals."""


def list_proposals(source: str, ids: Collection[str]) -> Proposals:
    """The masks at `source` for images of these ids; see `zs3.masks.external_index` for which is for which.

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: it is none of the three forms, or for none of these images.
    """
    filesystem, path = filesystem_of(source)
    if filesystem.isdir(path):
        return _of_folder(source, filesystem, path, ids)
    if not filesystem.exists(path):
        raise FileNotFoundError(
            f"no masks at {source!r}; expected COCO's JSON, a folder of label PNGs, or one with a folder for each image"
        )
    data = filesystem.cat_file(path)
    return Proposals(
        kind="COCO's JSON",
        digest=hashlib.sha256(data).hexdigest(),
        of_image={
            image_id: json.dumps({"source": source, "segmentations": segmentations, "size": size})
            for image_id, (segmentations, size) in coco_segmentations(source, data, ids).items()
        },
    )


def read_with_masks(
    refs: pa.Table, *, max_pixels: int, run: str, notes: str | None = None
) -> Iterator[pa.Table]:
    """As `read_and_decode`, one table of one row of `GIVEN` for each image; masks that cannot be used fail their image.

    Args:
        refs: columns image_id, uri, and proposals: JSON of `Proposals.of_image`, empty where there is none.
        max_pixels: pictures and masks of more pixels are refused before they are decoded.
        run: digest that failure rows carry.
        notes: as of `read_and_decode`.
    """
    told = [json.loads(text) if text else None for text in refs["proposals"].to_pylist()]
    with ThreadPoolExecutor(READS_AT_ONCE) as pool:
        contents = pool.map(_contents, told)
        pictures = read_and_decode(refs, max_pixels=max_pixels, run=run, notes=notes)
        for picture, proposals, content in zip(pictures, told, contents, strict=True):
            (row,) = picture.drop_columns("pixels").to_pylist()
            row |= {"pixels": picture["pixels"][0].as_py(), "masks": b""}
            if not row["failures"]:
                try:
                    row["masks"] = _packed(row, proposals, content, max_pixels)
                except Exception as error:  # one image's masks must not stop the others
                    row |= {"pixels": b"", "failures": [failure_of(row, "masks", error, run)]}
            yield pa.Table.from_pylist([row], schema=GIVEN)


def _packed(
    row: Mapping[str, Any],
    proposals: Mapping[str, Any] | None,
    content: list[bytes] | Exception,
    max_pixels: int,
) -> bytes:
    """The masks of one image, as `pack_masks` packs them."""
    if proposals is None:
        raise ProposalError(
            "missing",
            f"--masks has none for image {row['image_id']!r}; add them, or leave the image out of --images",
        )
    if isinstance(content, Exception):
        raise content
    size = (row["height"], row["width"])
    if "segmentations" in proposals:
        name = f"{proposals['source']}, image {row['image_id']!r}"
        masks = masks_of_coco(proposals["segmentations"], size, name, told_hw=proposals["size"])
    elif "label" in proposals:
        masks = masks_of_label_png(content[0], size, proposals["label"], max_pixels=max_pixels)
    else:
        files = list(zip(proposals["masks"], content, strict=True))
        masks = masks_of_pngs(files, size, max_pixels=max_pixels)
    return pack_masks(masks)


def _contents(proposals: Mapping[str, Any] | None) -> list[bytes] | Exception:
    """The files of one image's masks, or why they cannot be read."""
    told = proposals or {}
    try:
        return [read_bytes(uri) for uri in ([told["label"]] if "label" in told else told.get("masks", []))]
    except Exception as error:  # each storage library raises its own
        return error


def _of_folder(
    source: str, filesystem: fsspec.AbstractFileSystem, path: str, ids: Collection[str]
) -> Proposals:
    """The PNGs below a folder, by image."""
    root = path.rstrip("/")
    below = {name[len(root) + 1 :]: info for name, info in filesystem.find(root, detail=True).items()}
    pngs = {
        name: (uri_of(filesystem, f"{root}/{name}"), info)
        for name, info in sorted(below.items())
        if name.lower().endswith(".png") and not any(part.startswith(".") for part in name.split("/"))
    }
    names = names_of(ids)
    labels: dict[str, str] = {}
    masks: dict[str, list[str]] = {}
    for name, (uri, _) in pngs.items():
        if (image_id := names.get(name[: -len(".png")])) is not None:
            labels[image_id] = uri
        elif (image_id := names.get(name.rpartition("/")[0])) is not None:
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
        raise no_image(source, [name[: -len(".png")] for name in pngs], ids)
    digests = list(zip(pngs, _digests(list(pngs.values()))))
    return Proposals(
        kind="label PNGs" if labels else "a PNG for each mask",
        digest=hashlib.sha256(json.dumps(digests).encode()).hexdigest(),
        of_image={one: json.dumps({"label": uri}) for one, uri in labels.items()}
        | {one: json.dumps({"masks": uris}) for one, uris in masks.items()},
    )


def _digests(files: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
    """What tells the content of each file: the store's checksum, else a digest of it."""

    def digest(file: tuple[str, Mapping[str, Any]]) -> str:
        uri, info = file
        told = next((str(info[key]) for key in CHECKSUMS if info.get(key)), "")
        return told or hashlib.sha256(read_bytes(uri)).hexdigest()

    with ThreadPoolExecutor(READS_AT_ONCE) as pool:
        return list(pool.map(digest, files))
