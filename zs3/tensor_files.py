"""Tensors from files that others wrote: torch checkpoints, detectron2's pickles, safetensors, npz and npy.

No code in a file is ever run: only tensors, arrays and plain values are built.
"""

from __future__ import annotations

import hashlib
import io
import math
import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, Any, ClassVar

import numpy as np
import safetensors.torch
import torch
from fsspec.implementations.local import LocalFileSystem
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor

from zs3.addresses import is_web
from zs3.files import filesystem_of, read_file
from zs3.wording import first_names

WRAPPERS = ("model", "state_dict")
"""Keys under which checkpoints keep their state dict (detectron2; open_clip and timm)."""

MAX_EXPANSION = 50
"""Upper bound on how much a zip grows beyond 16 MiB when it is unpacked; weights shrink by a tenth."""

MAX_SHARING = 4
"""Upper bound on how many times the bytes of a torch file its tensors may have: tied weights are stored once."""

MAX_PATH = 200
"""Characters of the keys under which a dictionary in dictionaries is still searched for tensors."""

MAX_BYTES = 64 << 30
"""Largest file of weights that is read into memory."""

MAX_NAMES = 12
"""Tensors of one kind of misfit that a message names."""

# What the unpickler of torch raises on damaged bytes, and the zip reader on half a file.
_UNREADABLE = (
    pickle.UnpicklingError, RuntimeError, EOFError, ValueError, LookupError, AttributeError, TypeError,
    AssertionError, OverflowError, struct.error, zipfile.BadZipFile, SafetensorError,
)  # fmt: skip

_BYTEARRAY8 = pickle.BYTEARRAY8[0]

# What an array needs to be unpickled, under the names of numpy 1 and 2.
_ARRAY_CLASSES = {
    (f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("_reconstruct", "scalar")
} | {("numpy", "ndarray"), ("numpy", "dtype")}


def read_nested_tensors(uri: str) -> dict[str, Tensor]:
    """All tensors of a file by their place in it, as `model.backbone.stem.conv1.weight`; other values are left out.

    Args and errors are those of `read_tensors`.
    """
    file, suffix = _existing_file(uri)
    tensors = dict(_named_tensors(_dictionary(file, suffix, uri)))
    if not tensors:
        raise ValueError(f"{uri} holds no dictionary of tensors, at any depth; save a model's state_dict()")
    return tensors


def read_tensors(uri: str) -> dict[str, Tensor]:
    """The tensors of a file by name, on the CPU: a torch checkpoint (.pth), .safetensors, .npz, or a pickle of arrays
    (.pkl, as detectron2 publishes backbones).

    If the file holds a `model` or `state_dict`, that is taken and the rest is ignored.

    Args:
        uri: local path or uri.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is truncated, would run code, or holds something other than named tensors.
    """
    file, suffix = _existing_file(uri)
    return parse_tensors(file, suffix, uri)


def parse_tensors(file: str | bytes, suffix: str, origin: str) -> dict[str, Tensor]:
    """As `read_tensors`, from a local path or the content of a file.

    Args:
        suffix: `.pth`, `.safetensors`, `.npz` or `.pkl`.
        origin: what messages call the file.
    """
    content = _dictionary(file, suffix, origin)
    wrapped = (content[key] for key in WRAPPERS if isinstance(content.get(key), dict) and content[key])
    content = next(wrapped, content)
    tensors = {key: _tensor(value) for key, value in content.items()}
    others = [
        key for key, value in tensors.items() if not (isinstance(key, str) and isinstance(value, Tensor))
    ]
    if others:
        raise ValueError(
            f"{origin} holds no dictionary of tensors: {len(others)} of {len(tensors)} entries are none, the first is "
            f"{others[0]!r}; save a model's state_dict()"
        )
    return tensors


def read_matrix(path: Path) -> NDArray[np.floating]:
    """The float matrix of a local .npy file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, or holds anything but a matrix of floats.
    """
    try:
        # Mapped first, which compares the claimed size with that of the file before memory is taken.
        matrix = np.array(np.load(path, mmap_mode="r", allow_pickle=False))
    except (ValueError, EOFError) as error:
        raise ValueError(
            f"{path} does not load as a .npy matrix: {error}; save it with numpy.save"
        ) from error
    if matrix.ndim != 2 or not np.issubdtype(matrix.dtype, np.floating):
        raise ValueError(f"{path} holds {matrix.dtype} {matrix.shape}, expected a float matrix")
    return matrix


def file_digest(uri: str) -> str:
    """SHA-256 (hex) of a file of weights.

    Raises:
        FileNotFoundError: there is no such file.
    """
    filesystem, path = _existing_path(uri)
    with filesystem.open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def refuse_misfits(state: Mapping[str, Tensor], expected: Mapping[str, Sequence[int]], origin: str) -> None:
    """Raise unless the tensors have exactly the expected names and shapes.

    Raises:
        ValueError: names are missing, not expected, or of another shape; the message has the number of each kind, and
            the first `MAX_NAMES`.
    """
    other_shapes = [
        f"{name} is {_shape(state[name].shape)} instead of {_shape(shape)}"
        for name, shape in expected.items()
        if name in state and tuple(state[name].shape) != tuple(shape)
    ]
    misfits = {
        "missing": [name for name in expected if name not in state],
        "not expected": [name for name in state if name not in expected],
        "of another shape": other_shapes,
    }
    parts = [
        f"{len(names)} {kind} ({first_names(names, MAX_NAMES)})" for kind, names in misfits.items() if names
    ]
    if parts:
        raise ValueError(f"{origin}: of {len(expected)} tensors {'; '.join(parts)}; is it of another model?")


def as_float32(state: Mapping[str, Tensor], origin: str) -> dict[str, Tensor]:
    """The tensors as float32.

    Raises:
        ValueError: one holds no floating-point numbers, as quantised weights do not.
    """
    if others := [name for name, value in state.items() if not value.is_floating_point()]:
        raise ValueError(
            f"{origin}: {len(others)} of {len(state)} tensors are no floating-point numbers, the first is "
            f"{others[0]!r} of {state[others[0]].dtype}; save the weights before they are quantised"
        )
    return {name: value.float() for name, value in state.items()}


def refuse_not_finite(state: Mapping[str, Tensor], origin: str) -> None:
    """Raise unless every number of every tensor is finite: one NaN in the weights gives every pixel the same class.

    Raises:
        ValueError: one is NaN or infinite; the message has the first such tensor, their number and the first place.
    """
    for name, value in state.items():
        if not (value.is_floating_point() or value.is_complex()):
            continue
        wrong = ~torch.isfinite(value)
        if bool(wrong.any()):
            place = [int(index) for index in wrong.nonzero()[0]]
            raise ValueError(
                f"{origin}: {int(wrong.sum())} of {value.numel()} numbers of tensor {name!r} are not finite, the first "
                f"at {place}; copy the file again, or take weights saved before training diverged"
            )


class _ArrayUnpickler(pickle._Unpickler):  # the one in C takes memory for the numbers of its memo
    """Reads pickles of plain values and numpy arrays, as in detectron2's model zoo, and refuses all others.

    No opcode and no call takes more memory than the file has bytes.
    """

    dispatch: ClassVar = {
        code: load for code, load in pickle._Unpickler.dispatch.items() if code != _BYTEARRAY8
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):  # how Python 2's protocol keeps bytes
            return _latin1
        if (module, name) not in _ARRAY_CLASSES:
            raise pickle.UnpicklingError(f"GLOBAL {module}.{name}")
        if name == "ndarray":
            return None  # only named as the kind of array, and never called
        return super().find_class(module, name) if name == "dtype" else globals()[name]


def _reconstruct(_: None, shape: tuple[int, ...], code: bytes) -> NDArray[Any]:
    """An empty array whose content follows in the pickle."""
    if tuple(shape) != (0,):
        raise pickle.UnpicklingError(f"an array of shape {shape} without content")
    return np.ndarray((0,), np.int8)


def scalar(kind: np.dtype[Any], content: bytes) -> Any:
    """A number as numpy pickles it."""
    if kind.hasobject or len(content) != kind.itemsize:
        raise pickle.UnpicklingError("a number of another length")
    return np.frombuffer(content, kind)[0]


# What torch's own unpickler also builds: numpy's numbers, which training loops keep as their iteration or best score.
_NUMBERS: list[Any] = [
    *((scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    np.dtype,
    *{type(np.dtype(code)) for code in "?bBhHiIlLqQefd"},
]


def _latin1(text: str, encoding: str) -> bytes:
    """The bytes that a pickle of protocol 2 stores as text; no other codec is looked up."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"GLOBAL _codecs.encode of {encoding}")
    return text.encode("latin1")


def _existing_path(uri: str) -> tuple[Any, str]:
    filesystem, path = filesystem_of(uri)
    if not filesystem.isfile(path):
        raise FileNotFoundError(f"no weights at {uri!r}; check the path")
    return filesystem, path


def _existing_file(uri: str) -> tuple[str | bytes, str]:
    """The local path or the content of a file, and its suffix."""
    if is_web(uri):
        return read_file(uri, MAX_BYTES), PurePosixPath(uri).suffix.lower()
    filesystem, path = _existing_path(uri)
    local = isinstance(filesystem, LocalFileSystem)
    return path if local else read_file(uri, MAX_BYTES), PurePosixPath(path).suffix.lower()


def _dictionary(file: str | bytes, suffix: str, origin: str) -> dict[Any, Any]:
    """The dictionary that a file holds, not empty; arguments and errors as of `parse_tensors`."""
    try:
        content = _content(file, suffix)
    except _UNREADABLE as error:
        raise ValueError(f"{origin} does not load as plain tensors: {_reason(error)}") from error
    if not isinstance(content, dict) or not content:
        kind = "an empty one" if isinstance(content, dict) else f"a {type(content).__name__}"
        raise ValueError(f"{origin} holds no dictionary of tensors but {kind}; save a model's state_dict()")
    return content


def _named_tensors(content: Mapping[Any, Any]) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a dictionary and of those in it, each with its place."""
    waiting, visited = [("", content)], {id(content)}
    while waiting:
        path, dictionary = waiting.pop(0)
        for key, value in dictionary.items():
            if isinstance(value, dict) and id(value) not in visited and len(path) < MAX_PATH:
                visited.add(id(value))
                waiting.append((f"{path}{key}.", value))
            elif isinstance(tensor := _tensor(value), Tensor):
                yield f"{path}{key}", tensor


def _content(file: str | bytes, suffix: str) -> Any:
    """What the file holds, with arrays of a pickle as they are."""
    if suffix == ".safetensors":
        return safetensors.torch.load_file(file) if isinstance(file, str) else safetensors.torch.load(file)
    with (
        Path(file).open("rb") if isinstance(file, str) else io.BytesIO(file) as stream,
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # about the kind of file, which the error reports
        if suffix == ".npz":
            with np.load(stream, allow_pickle=False) as arrays:
                _refuse_claims(arrays.zip)
                _refuse_growth(arrays.zip, stream)
                return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
        if suffix == ".pkl":
            return _ArrayUnpickler(io.BytesIO(stream.read()), encoding="latin1").load()
        if zipfile.is_zipfile(stream):
            with zipfile.ZipFile(stream) as archive:
                _refuse_growth(archive, stream)
        stream.seek(0)
        with torch.serialization.safe_globals(_NUMBERS):
            content = torch.load(stream, map_location="cpu", weights_only=True)
        _refuse_claimed_tensors(content, stream)
        return content


def _refuse_claims(archive: zipfile.ZipFile) -> None:
    """Raise if the arrays of an .npz claim other sizes than they have, or far more than its bytes can be worth."""
    for entry in archive.infolist():
        with archive.open(entry) as file:
            version = np.lib.format.read_magic(file)
            header = (
                np.lib.format.read_array_header_1_0
                if version == (1, 0)
                else np.lib.format.read_array_header_2_0
            )
            shape, _, kind = header(file)
            if not kind.hasobject and file.tell() + math.prod(shape) * kind.itemsize != entry.file_size:
                raise ValueError(
                    f"{entry.filename} claims the shape {shape}, and has {entry.file_size} bytes"
                )


def _refuse_growth(archive: zipfile.ZipFile, stream: IO[bytes]) -> None:
    """Raise if the records of a zip become far more than its bytes can be worth."""
    size, packed = sum(entry.file_size for entry in archive.infolist()), _length(stream)
    if size > MAX_EXPANSION * packed + (16 << 20):
        raise ValueError(f"its {packed} bytes become {size}, more than {MAX_EXPANSION} times as many")


def _refuse_claimed_tensors(content: Any, stream: IO[bytes]) -> None:
    """Raise if the tensors of a torch file are not plain ones, or far larger than the file.

    With a stride of 0, four bytes are a tensor of any size.
    """
    tensors = dict(_named_tensors(content)) if isinstance(content, dict) else {}
    for name, value in tensors.items():
        if value.layout != torch.strided or value.device.type != "cpu" or value.is_quantized:
            raise ValueError(f"tensor {name!r} is no plain one, but {value.layout} on {value.device}")
    claimed, size = sum(value.numel() * value.element_size() for value in tensors.values()), _length(stream)
    if claimed > MAX_SHARING * size:
        raise ValueError(f"its tensors claim {claimed} bytes, and it has {size}")


def _length(stream: IO[bytes]) -> int:
    """Bytes of a file."""
    return stream.seek(0, io.SEEK_END)


def _tensor(value: Any) -> Any:
    """A tensor without its gradient, an array of numbers as a tensor of its own memory; anything else as it is."""
    if isinstance(value, Tensor):
        return value.detach()
    is_numeric = isinstance(value, np.ndarray) and value.dtype.kind in "biuf"
    return torch.from_numpy(np.array(value)) if is_numeric else value


def _reason(error: Exception) -> str:
    """Why a file was refused, in one line; torch's own message suggests running the code."""
    message = str(error)
    wanted = re.search(r"GLOBAL ([\w.]+)", message) or re.search(r"(?:class|function) ([\w.]+)", message)
    if "TorchScript" in message:
        return (
            "it is a TorchScript archive, which can run code, and is refused; save its state_dict() as "
            ".safetensors instead"
        )
    if isinstance(error, pickle.UnpicklingError) and wanted:
        return (
            f"it asks for {wanted[1]}, so it could run code, and is refused; if you trust it, save its state_dict() "
            "alone as .safetensors"
        )
    first = message.splitlines()[0][:80] if message and not isinstance(error, pickle.UnpicklingError) else ""
    detail = f"{type(error).__name__}: {first}" if first else type(error).__name__
    return f"it is truncated or no file of that kind ({detail}); copy it again"


def _shape(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "one number"
