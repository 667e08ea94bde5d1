"""The path of an image's file below a folder. Ids come from outside and must not lead out of the folder."""

from pathlib import PurePosixPath

PARTIAL = ".zs3-partial"
"""Folder below the output folder in which files grow until they are whole; no id leads into it."""


def relative_path(image_id: str, suffix: str) -> str:
    """`<image id><suffix>`, with the folders of the id as subfolders.

    Args:
        image_id: as the label table has it.
        suffix: with its dot, for example `.png`.

    Raises:
        ValueError: the id is empty, absolute, or has a part that is empty, `.` or `..`, a backslash, a colon
            or a control character, or lies in `PARTIAL`.
    """
    parts = image_id.split("/")
    is_unsafe = any(character in "\\:" or not character.isprintable() for character in image_id)
    if is_unsafe or parts[0] == PARTIAL or any(part.strip() in ("", ".", "..") for part in parts):
        raise ValueError(
            f"image id {image_id!r} cannot be a file name below the output folder; expected names joined by "
            "'/', without '..', a leading '/', a backslash or a colon; label again with plain ids"
        )
    return str(PurePosixPath(*parts)) + suffix


def picture_name(image_id: str, uri: str) -> str:
    """CVAT's name of a picture: its id, without the extension of its file if the id has it."""
    return str(PurePosixPath(image_id).with_suffix("")) if carries_extension(image_id, uri) else image_id


def carries_extension(image_id: str, uri: str) -> bool:
    """Whether an id is a path with the extension of the picture's file, as ids are where file names repeat."""
    name = uri.rsplit("/", 1)[-1]
    return bool(PurePosixPath(name).suffix) and image_id.rsplit("/", 1)[-1] == name
