"""Where the file of an image lies below a folder; ids come from outside and must not lead out of it."""

from pathlib import PurePosixPath


def relative_path(image_id: str, suffix: str) -> str:
    """`<image id><suffix>`, with the folders of the id as subfolders.

    Args:
        image_id: as the label table has it.
        suffix: with its dot, for example `.png`.

    Raises:
        ValueError: the id is empty, absolute, or has a part that is empty, `.` or `..`, a backslash, a colon
            or a control character.
    """
    parts = image_id.split("/")
    strange = any(character in "\\:" or not character.isprintable() for character in image_id)
    if strange or any(part.strip() in ("", ".", "..") for part in parts):
        raise ValueError(
            f"image id {image_id!r} cannot be a file name below the output folder; expected names joined by "
            "'/', without '..', a leading '/', a backslash or a colon; label again with plain ids"
        )
    return str(PurePosixPath(*parts)) + suffix
