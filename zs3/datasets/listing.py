"""What all layouts share: references to images and truth, and listing and pairing of files."""

import posixpath
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from fsspec.implementations.local import LocalFileSystem

from zs3.files import decoded, filesystem_of, first_bytes, read_file
from zs3.images.formats import FIRST_BYTES, begins_image, names_image
from zs3.vocabulary import Vocabulary
from zs3.wording import number_of


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRef:
    """Where one image and its truth are; small enough to send to any worker."""

    id: str
    image_uri: str
    truth_uri: str | None
    """None if the data set has no truth for the split."""
    segments: tuple[tuple[int, int], ...] = ()
    """(number in the truth, class id) of each segment, where the truth is panoptic."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """One split of an annotated data set. Its truth has the ids of its vocabulary."""

    name: str
    split: str
    vocabulary: Vocabulary
    refs: tuple[ImageRef, ...]


def title(layout: str, root: str, split: str) -> str:
    """The name of data set and split in reports."""
    return f"{posixpath.basename(root.rstrip('/')) if layout == 'folder' else layout} {split}"


def joined(root: str, *parts: str) -> str:
    """A path or uri below `root`."""
    return posixpath.join(root, *parts)


def read_text(uri: str) -> str:
    """The content of a text file, local or remote."""
    return decoded(read_file(uri), uri)


def is_folder(uri: str) -> bool:
    """Whether `uri` is a folder, local or remote."""
    filesystem, path = filesystem_of(uri)
    return bool(filesystem.isdir(path))


def files_below(folder: str, suffixes: tuple[str, ...]) -> dict[str, str]:
    """Files under `folder`, sorted: path relative to it -> absolute path, or uri where it is not local.

    Hidden files are left out. One listing call covers a whole folder or bucket prefix.

    Raises:
        FileNotFoundError: no such folder.
    """
    filesystem, base = filesystem_of(folder)
    base = base.rstrip("/")
    if not filesystem.isdir(base):
        raise FileNotFoundError(f"folder {folder!r} does not exist; check the data set's root")
    local = isinstance(filesystem, LocalFileSystem)
    files: dict[str, str] = {}
    for path in sorted(filesystem.find(base)):
        relative = path[len(base) + 1 :]
        hidden = any(part.startswith(".") for part in relative.split("/"))
        if relative.lower().endswith(suffixes) and not hidden:
            files[relative] = path if local else filesystem.unstrip_protocol(path)
    return files


def images_below(folder: str) -> dict[str, str]:
    """Those of `files_below` that are read as pictures: by their names, or by their content where these do not tell."""
    return {
        path: uri
        for path, uri in files_below(folder, ("",)).items()
        if ((named := names_image(path)) is None and begins_image(first_bytes(uri, FIRST_BYTES))) or named
    }


def by_stem(files: Mapping[str, str]) -> dict[str, str]:
    """The uris of `files_below` by file name without folder and extension."""
    return {PurePosixPath(path).stem: uri for path, uri in files.items()}


def paired(
    ids: Sequence[str],
    images: Mapping[str, str],
    truths: Mapping[str, str],
    where: str,
    segments: Mapping[str, tuple[tuple[int, int], ...]] | None = None,
) -> tuple[ImageRef, ...]:
    """References for `ids`, in order.

    Args:
        ids: image ids of a split.
        images: id -> image uri.
        truths: id -> truth uri. If no id has one, the split has no truth.
        where: name of the split in messages, as in "voc split 'val' at /data/voc".
        segments: id -> its segments, where the truth is panoptic.

    Raises:
        FileNotFoundError: an image is missing, or some but not all truths are.
        ValueError: the split is empty or lists an id twice.
    """
    if not ids:
        raise ValueError(f"{where} lists no image")
    if len(set(ids)) != len(ids):
        ((repeated, _),) = Counter(ids).most_common(1)
        raise ValueError(f"{where} lists {repeated!r} twice; each image counts once, remove one line")
    _refuse_missing("image", [image_id for image_id in ids if image_id not in images], len(ids), where)
    without = [image_id for image_id in ids if image_id not in truths]
    if len(without) < len(ids):
        _refuse_missing("truth mask", without, len(ids), where)
    return tuple(
        ImageRef(
            id=image_id,
            image_uri=images[image_id],
            truth_uri=truths.get(image_id),
            segments=(segments or {}).get(image_id, ()),
        )
        for image_id in ids
    )


def _refuse_missing(thing: str, missing: Sequence[str], total: int, where: str) -> None:
    if missing:
        raise FileNotFoundError(
            f"{where}: {len(missing)} of {number_of(total, 'image')} have no {thing} file, the first is "
            f"{missing[0]!r}; "
            f"complete the data set or take the ids out of the split"
        )
