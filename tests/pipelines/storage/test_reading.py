"""What is read of a uri that comes from elsewhere: regular files, known schemes, and no more bytes than allowed."""

import errno
import http.server
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import pipelines.storage.objects
import zs3.addresses
from pipelines.labelling.image_stage import read_and_decode
from pipelines.runs.listing import listed_images
from pipelines.storage.local_files import FileTooLargeError
from pipelines.storage.objects import open_file, read_bytes, use_storage_options
from zs3.addresses import WEB_VARIABLE, local_path
from zs3.checkpoint import load_checkpoint
from zs3.files import filesystem_of
from zs3.tensor_files import read_tensors
from zs3.vocabulary import load_vocabulary

SPELLINGS = ["{}", "file://{}", "local://{}", "FILE://{}", "file:///..{}"]


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_devices_and_pipes_are_refused_and_files_are_read_in_every_spelling(
    tmp_path: Path, spelling: str
) -> None:
    pipe, file = tmp_path / "pipe.png", tmp_path / "a::b #1 %20 [x]*?.png"
    os.mkfifo(pipe)
    file.write_bytes(b"content")
    (tmp_path / "link.png").symlink_to("/dev/zero")
    start = time.monotonic()
    for path in ("/dev/zero", pipe, tmp_path / "link.png"):
        for read in (read_bytes, open_file):
            with pytest.raises(OSError, match="is not a regular file") as error:
                read(spelling.format(path))
            assert error.value.errno == errno.EINVAL
    assert time.monotonic() - start < 2, "nothing is waited for, and nothing is tried again"
    assert read_bytes(spelling.format(file), 7) == b"content"
    with open_file(spelling.format(file)) as opened:
        assert opened.read() == b"content"
    with pytest.raises(FileTooLargeError, match="has 7 bytes, more than the 6"):
        read_bytes(spelling.format(file), 6)


@pytest.mark.parametrize(
    "uri",
    ["ftp://host/x.png", "zip://x.png::file:///a.zip", "simplecache::s3://b/x", "github://o:r@/x", "dir:///dev/zero",
     "reference://x", "libarchive://a::/dev/zero", "cached://x", "sftp://localhost/etc/passwd", "://x"],
)  # fmt: skip
def test_other_schemes_are_refused_in_one_line_that_says_what_is_read(uri: str) -> None:
    for read in (read_bytes, open_file, filesystem_of):
        with pytest.raises(
            ValueError, match="expected a local path, or a uri that begins with s3://"
        ) as error:
            read(uri)
        assert repr(uri) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["endless.txt", "endless.parquet", "endless.png"])
def test_a_device_or_pipe_as_the_list_of_images_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).symlink_to("/dev/zero")
    with pytest.raises(ValueError, match="is a pipe or a device"):
        list(listed_images(str(tmp_path / name))[1])


def test_entries_of_lists_lose_their_spelling_of_this_machine(tmp_path: Path) -> None:
    entries = ["file:///photos/a.jpg", "local:///photos/b.jpg", "c.jpg", "s3://bucket/d#1.jpg"]
    (tmp_path / "list.txt").write_text("\n".join(entries))
    pq.write_table(pa.table({"uri": entries}), tmp_path / "list.parquet")
    expected = ["/photos/a.jpg", "/photos/b.jpg", f"{tmp_path}/c.jpg", "s3://bucket/d#1.jpg"]
    for name in ("list.txt", "list.parquet"):
        batches = list(listed_images(str(tmp_path / name))[1])
        assert [uri for batch in batches for uri in batch["uri"].to_pylist()] == expected


def test_an_entry_that_is_not_read_is_one_failure_and_the_others_are_read(tmp_path: Path) -> None:
    from tests.support.colour_labeller import picture

    picture(tmp_path / "a.png")
    uris = [
        "local:///dev/zero",
        "http://169.254.169.254/latest/meta-data",
        "ftp://x/y.png",
        str(tmp_path / "a.png"),
    ]
    refs = pa.table({"image_id": [str(index) for index in range(4)], "uri": uris})
    rows = pa.concat_tables(read_and_decode(refs, max_pixels=100, run="r")).to_pylist()
    assert [len(row["failures"]) for row in rows] == [1, 1, 1, 0]
    messages = [row["failures"][0]["message"] for row in rows[:3]]
    for message, reason in zip(messages, ["regular file", "http=public", "'ftp' is not read"], strict=True):
        assert reason in message


class Endless:
    """A file that never ends and counts what is read of it."""

    def __init__(self) -> None:
        self.bytes = 0

    def __enter__(self) -> "Endless":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def read(self, size: int = -1) -> bytes:
        assert size >= 0, "read without a bound"
        self.bytes += size
        return bytes(size)


def test_a_store_that_sends_more_than_it_said_is_read_to_one_byte_past_the_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    endless = Endless()
    memory = fsspec.filesystem("memory")
    monkeypatch.setattr(type(memory), "open", lambda self, path, mode: endless)
    with pytest.raises(FileTooLargeError):
        read_bytes("memory://x.png", 1000)
    assert endless.bytes == 1001


@pytest.fixture
def web() -> Iterator[str]:
    """A web server on loopback: /small, /missing, /endless without a length, and /away, which leads to /small."""

    class Pages(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response({"/missing": 404, "/away": 302}.get(self.path, 200))
            if self.path == "/away":
                self.send_header("Location", f"http://localhost:{self.server.server_address[1]}/small")
            self.end_headers()
            try:
                if self.path == "/small":
                    self.wfile.write(b"small")
                while self.path == "/endless":
                    self.wfile.write(bytes(65536))
            except OSError:
                pass

        def log_message(self, *arguments: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Pages)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_pages_of_the_web_are_read_only_if_asked_for_and_private_addresses_only_if_asked_for_too(
    web: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(WEB_VARIABLE, raising=False)
    for uri in (f"{web}/small", "https://example.com/x.png"):
        with pytest.raises(ValueError, match="only with --storage-options http=public"):
            read_bytes(uri)
        for read in (filesystem_of, load_vocabulary, load_checkpoint, read_tensors):
            with pytest.raises(ValueError, match="only with --storage-options http=public"):
                read(uri)
    monkeypatch.setenv(WEB_VARIABLE, "public")
    port = web.rpartition(":")[2]
    mapped = f"http://[::ffff:127.0.0.1]:{port}"
    for base in (web, f"http://localhost:{port}", f"http://2130706433:{port}", mapped, "http://169.254.169.254",
                 "http://10.0.0.1", "http://[::1]", "http://[fe80::1]", "http://0.0.0.0"):  # fmt: skip
        with pytest.raises(ValueError, match="which is not public; give --storage-options http=any"):
            read_bytes(f"{base}/small")
    monkeypatch.setenv(WEB_VARIABLE, "any")
    assert read_bytes(f"{web}/small") == read_bytes(f"{web}/away") == b"small"


def test_a_redirect_or_a_name_that_changes_does_not_lead_to_a_private_address(
    web: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name `public.example` is public when it is first looked up, and leads to this server."""
    monkeypatch.setenv(WEB_VARIABLE, "public")
    port = int(web.rpartition(":")[2])
    lookup, connect, asked = socket.getaddrinfo, socket.create_connection, []

    def public(host: str, *arguments: object, **options: object) -> object:
        if host != "public.example":
            return lookup(host, *arguments, **options)  # type: ignore[arg-type]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("93.184.216.34", port))]

    def connected(address: tuple[str, int], *arguments: object) -> socket.socket:
        asked.append(address[0])
        return connect(("127.0.0.1", port))

    monkeypatch.setattr(zs3.addresses.socket, "getaddrinfo", public)
    monkeypatch.setattr(zs3.addresses.socket, "create_connection", connected)
    assert read_bytes(f"http://public.example:{port}/small") == b"small"
    with pytest.raises(ValueError, match=r"localhost has the address .* which is not public"):
        read_bytes(f"http://public.example:{port}/away")
    assert set(asked) == {"93.184.216.34"}


def test_a_page_without_a_length_is_read_to_one_byte_past_the_limit_and_a_missing_one_is_named(
    web: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(WEB_VARIABLE, raising=False)
    use_storage_options(["http=any"])
    try:
        with pytest.raises(FileTooLargeError, match="has 100001 bytes, more than the 100000"):
            read_bytes(f"{web}/endless", 100_000)
        with pytest.raises(FileNotFoundError, match="404"):
            read_bytes(f"{web}/missing", 100_000)
    finally:
        pipelines.storage.objects._storage_options.pop(WEB_VARIABLE)
        del os.environ[WEB_VARIABLE]


def test_a_path_with_a_colon_is_a_path() -> None:
    assert local_path("a/b://c") == "a/b://c" and local_path("file:x") == "file:x"
    assert local_path("s3://bucket/key") is None
