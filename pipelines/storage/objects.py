"""Files wherever they lie: on this machine or in an object store; reading them, and what their errors mean.

Credentials and endpoints come from the usual places: environment, profile, instance role, or `--storage-options`,
which becomes part of the environment. Nothing secret travels in a task, a table or a message.
"""

from __future__ import annotations

import errno
import functools
import os
import random
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, TypeVar

import fsspec
import pyarrow.fs

from pipelines.storage.local_files import read_local, refuse_large

ARROW_SCHEMES = frozenset({"s3", "gs"})
"""Object stores that Arrow reads several times faster than fsspec (440 against 160 objects a second)."""

ATTEMPTS = 6
"""How often a read is tried while the store answers with a passing error."""

FIRST_DELAY_S = 0.5
"""Before the second attempt; doubled before each further one, with a random share."""

OPTIONS = {
    "endpoint": ("AWS_ENDPOINT_URL",),
    "region": ("AWS_REGION", "AWS_DEFAULT_REGION"),
    "profile": ("AWS_PROFILE",),
    "key": ("AWS_ACCESS_KEY_ID",),
    "secret": ("AWS_SECRET_ACCESS_KEY",),
    "token": ("AWS_SESSION_TOKEN",),
}
"""Names for --storage-options → the variables that all storage libraries read."""

_PREFIXES = ("AWS_", "GOOGLE_", "AZURE_")
_SECRET = re.compile(r"SECRET|TOKEN|PASSWORD|ACCESS_KEY|ACCOUNT_KEY|SAS|CREDENTIALS|CONNECTION_STRING")

ErrorKind = Literal["missing", "forbidden", "credentials", "passing", "other"]

_CREDENTIALS = re.compile(
    r"INVALID_ACCESS_KEY_ID|SIGNATURE_DOES_NOT_MATCH|EXPIRED_TOKEN|INVALID_CLIENT_TOKEN_ID|UNRECOGNIZED_CLIENT|"
    r"InvalidAccessKeyId|SignatureDoesNotMatch|ExpiredToken|InvalidToken|NoCredentials|Unable to locate credentials|"
    r"access key ID you provided does not exist|request signature we calculated does not match",
    re.IGNORECASE,
)
_FORBIDDEN = re.compile(r"ACCESS_DENIED|AccessDenied|Forbidden|HTTP status 403", re.IGNORECASE)
_MISSING = re.compile(r"NO_SUCH_KEY|NO_SUCH_BUCKET|NoSuchKey|NoSuchBucket|HTTP status 404", re.IGNORECASE)
_LOCAL_AND_PASSING = {errno.EIO, errno.EAGAIN, errno.ETIMEDOUT, errno.ESTALE, errno.EINTR, errno.EBUSY}
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_SAID = re.compile(r"<Code>([^<]*)</Code>.*?<Message>([^<]*)</Message>", re.DOTALL)

T = TypeVar("T")
_given: dict[str, str] = {}


class CredentialsError(RuntimeError):
    """The store knows these credentials not at all; no image can be read with them."""


class StorageDownError(RuntimeError):
    """The store has answered one image after the other with errors, again and again."""


def use_storage_options(options: Sequence[str]) -> None:
    """Put `name=value` pairs into this process's environment, for every storage library and a Ray of its own.

    Args:
        options: names of `OPTIONS`, or variables that begin with AWS_, GOOGLE_ or AZURE_.

    Raises:
        ValueError: a pair is none, or its name is not known; the value is not told.
    """
    for option in options:
        name, equals, value = option.partition("=")
        variables = OPTIONS.get(name) or ((name,) if name.startswith(_PREFIXES) else ())
        if not equals or not variables:
            raise ValueError(
                f"--storage-options has {name!r}; expected name=value with one of {', '.join(OPTIONS)}, or a variable "
                f"that begins with {', '.join(_PREFIXES)}"
            )
        _given.update(dict.fromkeys(variables, value))
        os.environ.update(dict.fromkeys(variables, value))


def environment_for_cluster() -> dict[str, str]:
    """What of --storage-options goes to the machines of a cluster, where it is kept and shown: nothing secret.

    Raises:
        ValueError: a secret was given.
    """
    secret = sorted(name for name in _given if _SECRET.search(name))
    if secret:
        raise ValueError(
            f"--storage-options gives {', '.join(secret)}, which would be stored and shown by the cluster; give its "
            "machines a role or a profile instead"
        )
    return dict(_given)


def filesystem_of(source: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The file system of a uri and the path in it; a missing driver is named.

    Raises:
        ValueError: the scheme is not known, or its driver is missing.
    """
    if "://" not in source:
        source = str(Path(source).expanduser().absolute())
    try:
        filesystem, path = fsspec.core.url_to_fs(os.path.normpath(source) if "://" not in source else source)
    except (ValueError, ImportError) as error:
        raise ValueError(
            f"cannot open {source!r}: {error}; expected a local path or a uri such as s3://bucket/folder"
        ) from error
    return filesystem, path


def uri_of(filesystem: fsspec.AbstractFileSystem, path: str) -> str:
    """A path of a file system as the uri that workers open."""
    if "file" in filesystem.protocol and path.startswith("/"):
        return path
    return str(filesystem.unstrip_protocol(path)).removeprefix("file://")


def read_bytes(uri: str, most: int | None = None) -> bytes:
    """The whole content of one file; passing errors of the store are waited out.

    Args:
        uri: of the file.
        most: bytes that may be read; none reads all.

    Raises:
        OSError: it is not there or cannot be read.
        FileTooLargeError: it has more bytes than may be read.
        CredentialsError: the store refuses the credentials themselves.
    """
    return with_retries(lambda: _read(uri, most), uri)


def with_retries(action: Callable[[], T], uri: str, *, pause: Callable[[float], None] = time.sleep) -> T:
    """What `action` returns; repeated while the store answers with a passing error.

    Args:
        action: reads something.
        uri: of what, to tell its errors.
        pause: waits for some seconds.

    Raises:
        CredentialsError: the store refuses the credentials themselves.
        Exception: what the last attempt raised.
    """
    for attempt in range(ATTEMPTS):
        try:
            return action()
        except Exception as error:  # each storage library raises its own
            kind = classify_error(error, uri)
            if kind == "forbidden" and _refused_as_such(uri):
                kind = "credentials"
            if kind == "credentials":
                raise CredentialsError(
                    f"the store refuses the credentials for {uri}: {describe_error(error)}; check the keys, "
                    "their profile, and whether a token has expired"
                ) from error
            if kind != "passing" or attempt == ATTEMPTS - 1:
                raise
            pause(FIRST_DELAY_S * 2**attempt * random.uniform(0.5, 1.5))
    raise AssertionError("the last attempt returns or raises")


def classify_error(error: BaseException, uri: str) -> ErrorKind:
    """What an error of a storage library means for the file.

    Args:
        error: of pyarrow, fsspec, s3fs or deltalake.
        uri: of the file; on this machine few errors pass by themselves.
    """
    text = f"{type(error).__name__} {error}"
    if _CREDENTIALS.search(text):
        return "credentials"
    if isinstance(error, FileNotFoundError) or _MISSING.search(text):
        return "missing"
    if isinstance(error, PermissionError) or _FORBIDDEN.search(text):
        return "forbidden"
    if type(error).__name__ == "CommitFailedError":
        return "other"
    if "://" not in uri:
        return "passing" if isinstance(error, OSError) and error.errno in _LOCAL_AND_PASSING else "other"
    if isinstance(error, (ValueError, IsADirectoryError, NotADirectoryError)) and not isinstance(
        error, OSError
    ):
        return "other"
    return "other" if isinstance(error, (IsADirectoryError, NotADirectoryError)) else "passing"


def describe_error(error: BaseException) -> str:
    """What an error says, in one line: of an S3 server's answer its code and message, without colours."""
    text = _COLOUR.sub("", str(error))
    said = _SAID.search(text)
    if said:
        return f"{said[1]}: {said[2]}"
    lines = [line.strip().removeprefix("↳").strip() for line in text.strip().splitlines()]
    return ": ".join(line for line in lines if line)[:400] or type(error).__name__


def storage_options(uri: str) -> dict[str, str]:
    """What the Delta library needs beyond its reading of the environment: plain-http endpoints must be allowed."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL", "")
    return {"AWS_ALLOW_HTTP": "true"} if uri.startswith("s3") and endpoint.startswith("http://") else {}


def _read(uri: str, most: int | None) -> bytes:
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return read_local(uri, most)
    if scheme in ARROW_SCHEMES:
        with _arrow_filesystem(scheme, rest.partition("/")[0]).open_input_file(rest) as stream:
            refuse_large(uri, stream.size(), most)
            return bytes(stream.read())
    with fsspec.open(uri, "rb") as file:
        refuse_large(uri, getattr(file, "size", None), most)
        return bytes(file.read())


def _refused_as_such(uri: str) -> bool:
    """Whether not the file but the credentials are refused: asking for a file alone gives the same answer to both."""
    scheme, _, rest = uri.partition("://")
    if scheme not in ARROW_SCHEMES:
        return False
    bucket = rest.partition("/")[0]
    return _bucket_refuses(scheme, bucket, int(time.monotonic() / 60))


@functools.lru_cache(maxsize=64)
def _bucket_refuses(scheme: str, bucket: str, minute: int) -> bool:
    """Whether a listing of the bucket fails for the credentials; asked once a minute."""
    try:
        _arrow_filesystem(scheme, bucket).get_file_info(
            pyarrow.fs.FileSelector(f"{bucket}/zs3-none/", allow_not_found=True)
        )
    except Exception as error:
        return classify_error(error, f"{scheme}://{bucket}") == "credentials"
    return False


@functools.cache
def _arrow_filesystem(scheme: str, bucket: str) -> pyarrow.fs.FileSystem:
    """One connection pool per process and bucket."""
    return pyarrow.fs.FileSystem.from_uri(f"{scheme}://{bucket}")[0]
