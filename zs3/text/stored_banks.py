"""The text bank of a recipe: names encoded, or embeddings stored in files.

Stored embeddings serve word vectors and encoders that are not installed. They are a matrix whose rows follow the class
list, or a folder whose rows are looked up by name and which therefore serves every class list.
"""

# C class, D embedding
from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zs3.config import TextConfig, digest_of
from zs3.encoders import load_encoder
from zs3.files import parsed_json, read_file
from zs3.tensor_files import read_matrix
from zs3.text.bank import TextBank, text_bank
from zs3.vocabulary import ClassEntry, concept, normalised

MATRIX, NAMES = "embeddings.npy", "names.json"


def class_bank(
    text: TextConfig,
    entries: Sequence[ClassEntry],
    seen: Sequence[bool],
    *,
    device: torch.device,
    clip_state: Mapping[str, Tensor] | None = None,
) -> TextBank:
    """The text bank of some classes by a recipe: stored where `text.embeddings` is set, else encoded.

    Args:
        seen: for each class, whether it had training masks.
        clip_state: of the checkpoint, for an encoder that is part of it.

    Raises:
        FileNotFoundError: the stored embeddings, or the encoder's weights, are missing.
        ValueError: they do not fit the classes.
    """
    if text.embeddings:
        return stored_bank(text.embeddings, entries, seen)
    encoder = load_encoder(text.encoder, device=device, clip_state=clip_state)
    return text_bank(
        entries, encoder, templates=text.templates, seen=seen, synonyms=text.synonyms, rows=text.rows
    )


def phrase_embeddings(text: TextConfig, phrases: Sequence[str]) -> NDArray[np.float32]:
    """(N, D) unit rows of any phrases, each taken as a class name, in the space of one branch of a recipe.

    Compare them with the columns of the table `segments`: `recipe.query_text` gives the space of `query_embeddings`,
    `recipe.image_text` that of `image_embeddings`.

    Raises:
        FileNotFoundError: the stored embeddings, or the encoder's weights, are missing.
        ValueError: two phrases are equal, or stored embeddings lack one.
    """
    entries = [ClassEntry(id=index, name=phrase) for index, phrase in enumerate(phrases)]
    return class_bank(text, entries, [False] * len(entries), device=torch.device("cpu")).embeddings


def stored_bank(source: str | Path, entries: Sequence[ClassEntry], seen: Sequence[bool]) -> TextBank:
    """The text bank of some classes from stored embeddings, normalised here.

    In a folder, a class takes the row of its own name; else the one row whose name means the same (`concept`: tv is
    tvmonitor); else the one row named by one of its synonyms. Other rows are ignored.

    Args:
        source: a .npy float matrix with one row per class, in their order; or a folder of such a matrix,
            `embeddings.npy`, and `names.json`, the list of its rows' names.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: the files do not fit each other, a class has no row or several, or its row is zero or not finite.
    """
    source = Path(source)
    matrix_file, *names_file = stored_files(source)
    matrix = read_matrix(matrix_file)
    names = [entry.name for entry in entries]
    if names_file:
        names = parsed_json(
            read_file(str(names_file[0])), str(names_file[0]), "write the list of names again"
        )
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{source / NAMES} must hold a JSON list of names, one for each row of {MATRIX}")
    if len(matrix) != len(names):
        raise ValueError(
            f"{matrix_file} holds {matrix.dtype} {matrix.shape}, expected a float matrix with {len(names)} rows, one "
            f"for each {'name in ' + NAMES if names_file else 'class name in the same order'}"
        )
    if names_file:
        matrix = matrix[[_row_of(entry, names, source) for entry in entries]]
    rows = matrix.astype(np.float32)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    wrong = np.flatnonzero(~((lengths > 0) & np.isfinite(lengths)))
    if wrong.size:
        raise ValueError(
            f"the row of {entries[wrong[0]].name!r} in {matrix_file} is zero or not finite; "
            "every class needs a direction"
        )
    return TextBank(
        names=tuple(entry.name for entry in entries),
        embeddings=rows / lengths,
        seen=np.asarray(seen, dtype=np.bool_),
    )


def stored_files(source: Path) -> list[Path]:
    """The files of stored embeddings: a matrix, or the matrix and the names in a folder.

    Raises:
        FileNotFoundError: one is missing.
    """
    files = [source / MATRIX, source / NAMES] if source.is_dir() else [source]
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(
                f"no text embeddings at {file}; expected a .npy matrix, or a folder of {MATRIX} and {NAMES}, the names "
                "of its rows"
            )
    return files


def stored_digest(source: str | Path) -> str:
    """SHA-256 (hex) of the content of stored embeddings.

    Raises:
        FileNotFoundError: a file is missing.
    """
    return digest_of([hashlib.sha256(file.read_bytes()).hexdigest() for file in stored_files(Path(source))])


def _row_of(entry: ClassEntry, names: list[str], folder: Path) -> int:
    """The row of a class; see `stored_bank`."""
    plain = [normalised(name) for name in names]
    own, synonyms = normalised(entry.name), {normalised(synonym) for synonym in entry.synonyms}
    for rows in (
        [row for row, name in enumerate(plain) if name == own],
        [row for row, name in enumerate(plain) if concept(name) == concept(own)],
        [row for row, name in enumerate(plain) if name in synonyms],
    ):
        if len(rows) > 1:
            candidates = [names[row] for row in rows]
            raise ValueError(
                f"class {entry.name!r} could be the row of any of {candidates} in {folder}; rename one"
            )
        if rows:
            return rows[0]
    raise ValueError(
        f"no row for class {entry.name!r} among the {len(names)} names in {folder / NAMES} "
        f"({', '.join(names[:8])}, …); add its embedding and name"
    )
