"""Files of tensors that others wrote are read without running anything, or refused in one line."""

import io
import pickle
import resource
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from zs3.tensor_files import read_matrix, read_nested_tensors, read_tensors, refuse_misfits


class Touch:
    """Unpickling this makes a file: what a hostile checkpoint would do."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


TENSORS = {"a.weight": torch.arange(3.0), "b": torch.ones(1)}


@pytest.mark.parametrize(
    "content", [TENSORS, {"model": TENSORS, "iteration": 9}, {"state_dict": TENSORS, "epoch": 1}]
)
def test_a_state_dict_is_found_alone_and_in_a_checkpoint(tmp_path, content):
    torch.save(content, tmp_path / "some.pth")
    read = read_tensors(str(tmp_path / "some.pth"))
    assert list(read) == list(TENSORS) and torch.equal(read["a.weight"], TENSORS["a.weight"])


def test_all_tensors_are_found_with_their_places_and_others_left_out(tmp_path):
    content = {"model": TENSORS, "ema": {"state": {"a": torch.ones(1)}}, "epoch": np.int64(3)}
    content["itself"] = content
    torch.save(content, tmp_path / "some.pth")
    assert set(read_nested_tensors(str(tmp_path / "some.pth"))) == {
        "model.a.weight",
        "model.b",
        "ema.state.a",
    }


def test_safetensors_and_npz_are_read_too(tmp_path):
    safetensors.torch.save_file(TENSORS, tmp_path / "some.safetensors")
    np.savez(tmp_path / "some.npz", **{name: value.numpy() for name, value in TENSORS.items()})
    for name in ("some.safetensors", "some.npz"):
        read = read_tensors(str(tmp_path / name))
        assert read.keys() == TENSORS.keys() and torch.equal(read["a.weight"], TENSORS["a.weight"])


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_pickle_of_arrays_is_read_as_detectron2_publishes_them(tmp_path, protocol):
    arrays = {name: value.numpy() for name, value in TENSORS.items()} | {"count": np.array(7)}
    content = {"model": arrays, "__author__": "torchvision", "matching_heuristics": True}
    (tmp_path / "R-50.pkl").write_bytes(pickle.dumps(content, protocol=protocol))
    read = read_tensors(str(tmp_path / "R-50.pkl"))
    assert torch.equal(read["a.weight"], TENSORS["a.weight"]) and int(read["count"]) == 7
    # The core of numpy has another name in pickles of numpy 1.
    older = pickle.dumps(content, protocol=protocol).replace(
        b"numpy._core.multiarray", b"numpy.core.multiarray"
    )
    if protocol == 2:
        (tmp_path / "R-50.pkl").write_bytes(older)
        assert torch.equal(read_tensors(str(tmp_path / "R-50.pkl"))["a.weight"], TENSORS["a.weight"])


@pytest.mark.parametrize("value", ["text", [1.0], np.array(["a"]), np.array([1j])])
def test_a_pickle_of_something_else_is_refused(tmp_path, value):
    (tmp_path / "some.pkl").write_bytes(pickle.dumps({"model": {"w": value}}))
    with pytest.raises(ValueError, match="1 of 1 entries are none, the first is 'w'"):
        read_tensors(str(tmp_path / "some.pkl"))
    (tmp_path / "some.pkl").write_bytes(pickle.dumps(value))
    with pytest.raises(ValueError, match="no dictionary of tensors but a"):
        read_tensors(str(tmp_path / "some.pkl"))


def test_files_beyond_this_machine_are_read_alike(tmp_path):
    import fsspec

    torch.save(TENSORS, tmp_path / "some.pth")
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/weights/some.pth", (tmp_path / "some.pth").read_bytes())
    try:
        assert read_tensors("memory://weights/some.pth").keys() == TENSORS.keys()
    finally:
        memory.rm("/weights", recursive=True)


@pytest.mark.parametrize("name", ["checkpoint.pth", "raw.pth", "weights.pkl", "objects.npz"])
def test_code_in_a_file_is_refused_and_did_not_run(tmp_path, name):
    mark, file = tmp_path / "ran", tmp_path / name
    hostile = Touch(mark)
    if name == "checkpoint.pth":
        torch.save({"model": TENSORS, "trainer": hostile}, file)
    elif name == "objects.npz":
        np.savez(file, a=np.array([hostile], dtype=object))
    else:
        file.write_bytes(pickle.dumps(hostile, protocol=2))
    with pytest.raises(ValueError, match=str(file)) as refusal:
        read_tensors(str(file))
    assert not mark.exists(), "the code ran"
    assert "\n" not in str(refusal.value)
    if name in ("checkpoint.pth", "weights.pkl"):
        assert "asks for" in str(refusal.value) and "refused" in str(refusal.value)
    pickle.loads(pickle.dumps(hostile))
    assert mark.exists(), "this test's code does nothing even where it may run"


@pytest.mark.parametrize("name", ["some.pth", "some.safetensors", "some.npz"])
def test_a_truncated_file_is_named(tmp_path, name):
    if name == "some.pth":
        torch.save(TENSORS, tmp_path / name)
    elif name == "some.npz":
        np.savez(tmp_path / name, a=np.ones(3))
    else:
        safetensors.torch.save_file(TENSORS, tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    for length in (0, 7, len(whole) // 2, len(whole) - 1):
        (tmp_path / name).write_bytes(whole[:length])
        with pytest.raises(
            ValueError, match=rf"{name} does not load as plain tensors: it is truncated or no"
        ) as refusal:
            read_tensors(str(tmp_path / name))
        assert "\n" not in str(refusal.value)


def test_damaged_bytes_are_read_or_refused_but_end_in_nothing_else(tmp_path):
    torch.save(TENSORS, tmp_path / "some.pth")
    whole = (tmp_path / "some.pth").read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(60):
        damaged = bytearray(whole)
        for place in rng.integers(len(whole), size=4):
            damaged[place] = rng.integers(256)
        (tmp_path / "some.pth").write_bytes(bytes(damaged))
        try:
            read_tensors(str(tmp_path / "some.pth"))
        except ValueError:
            refused += 1
    assert refused > 10, "the damage was too small to test anything"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "no dictionary of tensors but a list"),
        ({}, "no dictionary of tensors but an empty one"),
        ({"iteration": 1, "w": torch.ones(1)}, "1 of 2 entries are none, the first is 'iteration'"),
        ({"model": {"w": [1.0]}}, "1 of 1 entries are none, the first is 'w'"),
    ],
)
def test_what_is_no_state_dict_is_refused(tmp_path, content, message):
    torch.save(content, tmp_path / "some.pth")
    with pytest.raises(ValueError, match=message):
        read_tensors(str(tmp_path / "some.pth"))


def test_text_and_missing_files_are_named(tmp_path):
    (tmp_path / "page.pth").write_text("<!DOCTYPE html><html>Quota exceeded</html>")
    with pytest.raises(ValueError, match=r"page\.pth does not load as plain tensors"):
        read_tensors(str(tmp_path / "page.pth"))
    with pytest.raises(FileNotFoundError, match=r"no weights at .*absent\.pth"):
        read_tensors(str(tmp_path / "absent.pth"))


def test_every_kind_of_misfit_is_counted_and_named():
    given = {"a": torch.ones(2), "b": torch.ones(1), **{f"x{i}": torch.ones(1) for i in range(5)}}
    with pytest.raises(ValueError) as refusal:
        refuse_misfits(given, {"a": (3,), "b": (1,), "c": (1,), "d": ()}, "some.pth")
    assert str(refusal.value) == (
        "some.pth: of 4 tensors 2 missing (c, d); 5 not expected (x0, x1, x2, x3, x4); 1 of another shape "
        "(a is 2 instead of 3); is it of another model?"
    )
    refuse_misfits({"a": torch.ones(2)}, {"a": (2,)}, "some.pth")


def most_memory_of(action) -> int:
    """Kilobytes by which the process's peak grows."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    action()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before


@pytest.mark.parametrize(
    "content",
    [
        b"cnumpy\nndarray\n((I500000000\nttR.",
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I2000000000\ntS'b'\ntR.",
        b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(S'V2000000000'\ntRS''\ntR.",
        b"\x80\x05}r\xff\xff\xff\x0f.",
        b"\x80\x05\x96\x00\x94\x35\x77\x00\x00\x00\x00.",
        b"\x80\x05\x8e\x00\x94\x35\x77\x00\x00\x00\x00.",
    ],
)
def test_a_pickle_takes_no_memory_for_what_it_claims(tmp_path, content):
    (tmp_path / "some.pkl").write_bytes(content)

    def read() -> None:
        with pytest.raises(ValueError, match=r"some\.pkl"):
            read_tensors(str(tmp_path / "some.pkl"))

    assert most_memory_of(read) < 100_000


def test_an_npz_takes_no_memory_for_what_it_claims(tmp_path):
    file = tmp_path / "some.npz"
    np.savez_compressed(file, a=np.zeros(30_000_000, np.uint8))
    with pytest.raises(ValueError, match=r"some\.npz .* more than 50 times as many"):
        read_tensors(str(file))
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (10**9,)})
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.npy", header.getvalue() + b"0000")

    def read() -> None:
        with pytest.raises(ValueError, match=r"claims the shape \(1000000000,\)"):
            read_tensors(str(file))

    assert most_memory_of(read) < 100_000
    (tmp_path / "some.npy").write_bytes(header.getvalue() + b"0000")
    with pytest.raises(ValueError, match=r"some\.npy does not load"):
        read_matrix(tmp_path / "some.npy")


def test_a_torch_file_takes_no_memory_for_what_it_claims(tmp_path):
    file = tmp_path / "some.pth"
    torch.save({"w": torch.as_strided(torch.ones(1), (10**9,), (0,))}, file)

    def read(message: str) -> None:
        with pytest.raises(ValueError, match=message):
            read_tensors(str(file))

    assert (
        most_memory_of(lambda: read(r"some\.pth .*its tensors claim 4000000000 bytes, and it has \d+"))
        < 100_000
    )
    torch.save({"w": torch.zeros(30_000_000, dtype=torch.uint8)}, file)
    with zipfile.ZipFile(file) as stored:
        records = {name: stored.read(name) for name in stored.namelist()}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in records.items():
            packed.writestr(name, content)
    assert most_memory_of(lambda: read("more than 50 times as many")) < 100_000
    torch.save({"w": torch.zeros(30_000_000, dtype=torch.uint8).to_sparse()}, file)
    read("tensor 'w' is no plain one, but torch.sparse_coo on cpu")
    torch.save({"w": torch.zeros(10, device="meta")}, file)
    read("tensor 'w' is no plain one, but torch.strided on meta")
