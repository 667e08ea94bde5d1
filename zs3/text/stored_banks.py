"""The text bank that a recipe asks for: names through an encoder, or embeddings that someone stored.

Stored embeddings stand for word vectors and for encoders that are not at hand. They come as a matrix whose rows
are in the order of the class list, or as a folder whose rows are found by name, which serves every class list alike.
"""

# C class, D embedding
from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from zs3.config import TextConfig, digest_of
from zs3.encoders import load_encoder
from zs3.text.bank import TextBank, bank_from_npy, text_bank
from zs3.vocabulary import ClassEntry, concept, normalised


def class_bank(
    text: TextConfig,
    entries: Sequence[ClassEntry],
    seen: Sequence[bool],
    *,
    device: torch.device,
    cache_dir: Path | None = None,
) -> TextBank:
    """The text bank of some classes as a recipe says: stored where `text.embeddings` names a place, else encoded.

    Args:
        seen: for each class, whether it had training masks.
        cache_dir: folder that keeps encoded banks by digest; none encodes anew.

    Raises:
        FileNotFoundError: the stored embeddings, or the encoder's weights, are not there.
        ValueError: they do not fit the classes.
    """
    if text.embeddings and Path(text.embeddings).is_dir():
        return bank_from_folder(text.embeddings, entries, seen)
    if text.embeddings:
        return bank_from_npy(text.embeddings, [entry.name for entry in entries], seen)
    return text_bank(
        entries,
        load_encoder(text.encoder, device=device),
        templates=text.templates,
        seen=seen,
        synonyms=text.synonyms,
        cache_dir=cache_dir,
    )


def phrase_embeddings(text: TextConfig, phrases: Sequence[str]) -> NDArray[np.float32]:
    """(N, D) unit rows of any phrases, each taken as a class name, in the space of one branch of a recipe.

    They are what the columns of the table `segments` are compared with: `recipe.query_text` gives the space of
    `query_embeddings`, `recipe.image_text` that of `image_embeddings`.

    Raises:
        FileNotFoundError: the stored embeddings, or the encoder's weights, are not there.
        ValueError: a phrase comes twice, or stored embeddings lack it.
    """
    entries = [ClassEntry(id=index, name=phrase) for index, phrase in enumerate(phrases)]
    return class_bank(text, entries, [False] * len(entries), device=torch.device("cpu")).embeddings


def bank_from_folder(folder: str | Path, entries: Sequence[ClassEntry], seen: Sequence[bool]) -> TextBank:
    """The text bank of some classes, found by name among the rows of a stored matrix.

    The folder holds `embeddings.npy`, a float matrix, and `names.json`, the list of its rows' names. A class takes the
    row of its own name; else the one row whose name means the same (`concept`: tv is tvmonitor); else the one row named
    by one of its synonyms. Rows that no class asks for are not read.

    Raises:
        FileNotFoundError: one of the two files is missing.
        ValueError: they do not fit each other, a class has no row or several, or its row is zero or not finite.
    """
    folder = Path(folder)
    stored, listed = folder / "embeddings.npy", folder / "names.json"
    for path in (stored, listed):
        if not path.is_file():
            raise FileNotFoundError(
                f"no {path.name} in {folder}; expected embeddings.npy and names.json, the names of its rows"
            )
    names, matrix = json.loads(listed.read_text(encoding="utf-8")), np.load(stored, allow_pickle=False)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{listed} must hold a JSON list of names, one for each row of embeddings.npy")
    if matrix.ndim != 2 or len(matrix) != len(names) or not np.issubdtype(matrix.dtype, np.floating):
        raise ValueError(
            f"{stored} holds {matrix.dtype} {matrix.shape}, expected a float matrix with {len(names)} rows, "
            "one for each name in names.json"
        )
    rows = matrix[[_row_of(entry, names, folder) for entry in entries]].astype(np.float32)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    wrong = np.flatnonzero(~((lengths > 0) & np.isfinite(lengths)))
    if wrong.size:
        raise ValueError(
            f"the row of {entries[wrong[0]].name!r} in {stored} is zero or not finite; "
            "every class needs a direction"
        )
    digest = digest_of(
        [stored_digest(folder), [entry.name for entry in entries], [bool(flag) for flag in seen]]
    )
    return TextBank(
        names=tuple(entry.name for entry in entries),
        embeddings=rows / lengths,
        seen=np.asarray(seen, dtype=np.bool_),
        digest=digest,
    )


def stored_digest(path: str | Path) -> str:
    """sha256 (hex) of the content of stored embeddings: a .npy file, or the two files of a folder.

    Raises:
        FileNotFoundError: nothing is there.
    """
    path = Path(path)
    files = [path / "embeddings.npy", path / "names.json"] if path.is_dir() else [path]
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise FileNotFoundError(
            f"no text embeddings at {missing[0]}; expected a .npy matrix, or a folder of embeddings.npy and names.json"
        )
    return digest_of([hashlib.sha256(file.read_bytes()).hexdigest() for file in files])


def _row_of(entry: ClassEntry, names: list[str], folder: Path) -> int:
    """The row of a class; see `bank_from_folder`."""
    plain = [normalised(name) for name in names]
    own, synonyms = normalised(entry.name), {normalised(synonym) for synonym in entry.synonyms}
    for asked in (
        [row for row, name in enumerate(plain) if name == own],
        [row for row, name in enumerate(plain) if concept(name) == concept(own)],
        [row for row, name in enumerate(plain) if name in synonyms],
    ):
        if len(asked) > 1:
            several = [names[row] for row in asked]
            raise ValueError(
                f"class {entry.name!r} could be the row of any of {several} in {folder}; rename one"
            )
        if asked:
            return asked[0]
    shown = ", ".join(names[:8])
    raise ValueError(
        f"no row for class {entry.name!r} among the {len(names)} names in {folder}/names.json ({shown}, …); "
        "add its embedding and name"
    )
