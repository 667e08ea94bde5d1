"""Tensors out of files that others wrote: torch checkpoints, detectron2's pickles, safetensors and npz, never code."""

from __future__ import annotations

import hashlib
import io
import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import fsspec
import numpy as np
import safetensors.torch
import torch
from fsspec.implementations.local import LocalFileSystem
from safetensors import SafetensorError
from torch import Tensor

WRAPPERS = ("model", "state_dict")
"""Keys under which checkpoints keep their state dict (detectron2; open_clip and timm)."""

# What the unpickler of torch raises on bytes that are not what it expects, and the zip reader on half a file.
_UNREADABLE = (
    pickle.UnpicklingError, RuntimeError, EOFError, ValueError, LookupError, AttributeError, TypeError,
    AssertionError, OverflowError, struct.error, zipfile.BadZipFile, SafetensorError,
)  # fmt: skip


# All that an array needs to be unpickled, under the names of numpy 1 and 2; whatever else a pickle asks for is refused.
_OF_ARRAYS = {
    (f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("_reconstruct", "scalar")
} | {("numpy", "ndarray"), ("numpy", "dtype")}


class _ArrayUnpickler(pickle.Unpickler):
    """Reads pickles of plain values and numpy arrays, as detectron2's model zoo holds, and no others."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):  # how Python 2's protocol keeps bytes
            return _latin1
        if (module, name) not in _OF_ARRAYS:
            raise pickle.UnpicklingError(f"GLOBAL {module}.{name}")
        return super().find_class(module, name)


def _latin1(text: str, encoding: str) -> bytes:
    """The bytes that a pickle of protocol 2 holds as text; no other codec is ever looked up."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"GLOBAL _codecs.encode of {encoding}")
    return text.encode("latin1")


def read_tensors(uri: str) -> dict[str, Tensor]:
    """The tensors of a file by name, on the CPU: of a torch checkpoint (.pth), a pickle of arrays (.pkl, as detectron2
    publishes backbones), of .safetensors or of .npz.

    A checkpoint's `model` or `state_dict` is taken where there is one; what stands beside it is passed over.

    Args:
        uri: local path or uri.

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: the file is truncated, wants to run code, or holds something other than named tensors.
    """
    filesystem, path = fsspec.core.url_to_fs(uri)
    if not filesystem.isfile(path):
        raise FileNotFoundError(f"no weights at {uri!r}; check the path")
    suffix = PurePosixPath(path).suffix.lower()
    try:
        content = _content(filesystem, path, suffix)
    except _UNREADABLE as error:
        raise ValueError(f"{uri} does not load as plain tensors: {_reason(error)}") from error
    if isinstance(content, dict):
        content = next((content[key] for key in WRAPPERS if isinstance(content.get(key), dict)), content)
    if not isinstance(content, dict) or not content:
        held = "an empty one" if isinstance(content, dict) else f"a {type(content).__name__}"
        raise ValueError(f"{uri} holds no dictionary of tensors but {held}; save a model's state_dict()")
    others = [
        key for key, value in content.items() if not (isinstance(key, str) and isinstance(value, Tensor))
    ]
    if others:
        raise ValueError(
            f"{uri} holds no dictionary of tensors: {len(others)} of {len(content)} entries are none, the first is "
            f"{others[0]!r}; save a model's state_dict()"
        )
    return dict(content)


def file_digest(uri: str) -> str:
    """SHA-256 (hex) of a file of weights.

    Raises:
        FileNotFoundError: nothing is there.
    """
    filesystem, path = fsspec.core.url_to_fs(uri)
    if not filesystem.isfile(path):
        raise FileNotFoundError(f"no weights at {uri!r}; check the path")
    with filesystem.open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _content(filesystem: Any, path: str, suffix: str) -> Any:
    """What the file holds; only tensors and plain values are ever built."""
    if suffix == ".safetensors":
        return safetensors.torch.load(filesystem.cat_file(path))
    if suffix == ".npz":
        with np.load(io.BytesIO(filesystem.cat_file(path)), allow_pickle=False) as arrays:
            return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    if suffix == ".pkl":
        values = _ArrayUnpickler(io.BytesIO(filesystem.cat_file(path)), encoding="latin1").load()
        values = values.get("model", values) if isinstance(values, dict) else values
        if not isinstance(values, dict):
            return values
        return {key: _tensor(value) for key, value in values.items()}
    file = path if isinstance(filesystem, LocalFileSystem) else io.BytesIO(filesystem.cat_file(path))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the kind of file, which the error says again
        return torch.load(file, map_location="cpu", weights_only=True)


def _tensor(value: Any) -> Any:
    """An array of numbers as a tensor of its own memory; anything else as it is."""
    is_numbers = isinstance(value, np.ndarray) and value.dtype.kind in "biuf"
    return torch.from_numpy(np.array(value)) if is_numbers else value


def _reason(error: Exception) -> str:
    """Why, in one line; torch's own message offers to run the code after all."""
    message = str(error)
    wanted = re.search(r"GLOBAL ([\w.]+)", message) or re.search(r"(?:class|function) ([\w.]+)", message)
    if "TorchScript" in message:
        return (
            "it is a TorchScript archive, which can run code, and is refused; save its state_dict() as "
            ".safetensors instead"
        )
    if isinstance(error, pickle.UnpicklingError) and wanted:
        return (
            f"it asks for {wanted[1]}, so it could run code, and is refused; where you trust it, save its state_dict() "
            "alone as .safetensors"
        )
    first = message.splitlines()[0][:80] if message and not isinstance(error, pickle.UnpicklingError) else ""
    detail = f"{type(error).__name__}: {first}" if first else type(error).__name__
    return f"it is truncated or no file of that kind ({detail}); copy it again"


def refuse_misfits(given: Mapping[str, Tensor], wanted: Mapping[str, Sequence[int]], origin: str) -> None:
    """Pass only tensors that have exactly the wanted names and shapes.

    Raises:
        ValueError: names are missing, left over, or of another shape; every one of them is named.
    """
    wrong = [
        f"{name} is {_shape(given[name].shape)} instead of {_shape(shape)}"
        for name, shape in wanted.items()
        if name in given and tuple(given[name].shape) != tuple(shape)
    ]
    kinds = {
        "missing": [name for name in wanted if name not in given],
        "not expected": [name for name in given if name not in wanted],
        "of another shape": wrong,
    }
    found = [f"{len(names)} {kind} ({', '.join(names)})" for kind, names in kinds.items() if names]
    if found:
        raise ValueError(f"{origin}: of {len(wanted)} tensors {'; '.join(found)}; is it of another model?")


def _shape(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "one number"
