"""Models of others that a composed checkpoint refers to: a folder, a file, or a name on the Hugging Face hub.

Weights are fetched once, when the checkpoint is composed; afterwards they are read from the hub's cache of the machine
or from their folder, and no command goes to the network for them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from zs3.files import parsed_json
from zs3.wording import printable, shortened

FILES = {
    "masks": ("config.json", "*processor_config.json", "model.safetensors*", "model-*.safetensors"),
    "encoder": (
        "open_clip_config.json", "open_clip_model.safetensors", "*token*.json", "*.model", "vocab.*", "merges.txt",
    ),
}  # fmt: skip
"""Role of a part → patterns of the files that define it, as transformers and open_clip name them."""

CARD = "README.md"
"""The page of a model, whose header names its licence."""

PERMISSIVE = {"apache-2.0", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-4.0", "isc", "mit", "unlicense"}
"""Licences that allow redistribution and commercial use, in the hub's spelling."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One model that a composed checkpoint refers to."""

    name: str
    """A path or a name on the hub."""
    revision: str
    """The hub's commit; empty for a path."""
    digest: str
    """SHA-256 (hex) over its weights and settings."""
    licence: str
    """As its page says, in the hub's spelling; empty where it says none."""

    @property
    def restricted(self) -> bool:
        """Whether its licence is not known to allow redistribution and commercial use."""
        return self.licence not in PERMISSIVE


def fetched(role: str, name: str) -> tuple[Path, Part]:
    """Where a model lies on this machine, and the reference to it.

    A name on the hub is downloaded if it is not in the cache. The files are read for their digest.

    Args:
        role: a key of `FILES`.
        name: of a folder or a file, or on the hub.

    Raises:
        FileNotFoundError: it is neither here nor, if the hub is reached, there.
    """
    path, revision = Path(name).absolute(), ""
    if path.exists():
        name = str(path)
    else:
        path = _snapshot(
            name, [*FILES[role], CARD], None, "is there a network, and is the name or path right?"
        )
        revision = path.name
    digest = _digest_of_files(role, path)
    return path, Part(name=name, revision=revision, digest=digest, licence=_licence(path))


def located(role: str, part: Part, checkpoint: str) -> Path:
    """Where a part of a checkpoint lies on this machine; nothing is downloaded.

    Raises:
        FileNotFoundError: it is not here.
        ValueError: its files are not those that the checkpoint was composed of.
    """
    if part.revision:
        repair = "run zs3 compose on this machine, or set HF_HOME to a cache that all machines share"
        path = _snapshot(part.name, None, part.revision, repair)
    else:
        path = Path(part.name)
    if not path.exists():
        raise FileNotFoundError(
            f"checkpoint {checkpoint!r} needs {part.name}, which is not on this machine; put it back, or run "
            "zs3 compose with where it lies now"
        )
    digest = _digest_of_files(role, path)
    if digest != part.digest:
        raise ValueError(
            f"{part.name} has changed since checkpoint {checkpoint!r} was composed: its digest is {digest[:12]} and "
            f"was {part.digest[:12]}; restore its files, or run zs3 compose into another --out"
        )
    return path


def parts_from_json(data: bytes, origin: str) -> dict[str, Part]:
    """Role → part, as a checkpoint stores them.

    Raises:
        ValueError: a role or a field is missing, unknown or no text.
    """
    value, expected = parsed_json(data, origin), {field.name for field in fields(Part)}
    if not isinstance(value, dict) or set(value) != set(FILES):
        raise ValueError(f"{origin} is {shortened(value)}, expected the parts {' and '.join(FILES)}")
    for role, one in value.items():
        if (
            not isinstance(one, dict)
            or set(one) != expected
            or not all(isinstance(v, str) for v in one.values())
        ):
            raise ValueError(
                f"{origin}: {role} is {shortened(one)}, expected the texts {', '.join(expected)}"
            )
    return {role: Part(**one) for role, one in value.items()}


def _digest_of_files(role: str, path: Path) -> str:
    """SHA-256 (hex) over the content of a file, or of those files of a folder that define a part."""
    found = {one for pattern in FILES[role] for one in path.glob(pattern)} if path.is_dir() else {path}
    total = hashlib.sha256()
    for one in sorted(found, key=lambda file: file.name):
        with one.open("rb") as opened:
            content = hashlib.file_digest(opened, "sha256").hexdigest()
        total.update(f"{one.name if path.is_dir() else ''} {content}\n".encode())
    return total.hexdigest()


def _snapshot(name: str, files: Sequence[str] | None, revision: str | None, repair: str) -> Path:
    """The folder of a hub's model in this machine's cache; downloaded unless the revision is given."""
    from huggingface_hub import snapshot_download

    try:
        patterns = None if files is None else [*files, CARD]
        folder = snapshot_download(
            name, revision=revision, allow_patterns=patterns, local_files_only=revision is not None
        )
    except Exception as error:  # the library raises errors of its own, of the network and of the name
        why = (
            "is not in the cache of this machine"
            if revision
            else "is neither in the cache nor reached on the hub"
        )
        raise FileNotFoundError(f"model {printable(name)!r} {why}; {repair}") from error
    return Path(folder)


def _licence(path: Path) -> str:
    """What the page of a model says."""
    card = path / CARD
    if not card.is_file():
        return ""
    from huggingface_hub import ModelCard

    try:
        licence = ModelCard.load(card).data.get("license")
    except ValueError:  # a page without a header, or with a broken one
        return ""
    return licence if isinstance(licence, str) else ""
