"""Reading files from this machine or an object store, with retries; and what the errors of storage libraries mean.

Credentials and endpoints come from the environment, a profile, the machine's role, or `--storage-options`, which are
put into the environment. No task, table or message contains a secret.
"""

from __future__ import annotations

import difflib
import errno
import functools
import os
import random
import re
import time
from collections.abc import Callable, Sequence
from typing import IO, Literal, TypeVar

import fsspec
import pyarrow.fs

from pipelines.storage.local_files import read_bounded, read_local, refuse_large
from zs3.addresses import WEB_VARIABLE, is_web, local_path, read_web
from zs3.files import filesystem_of, open_local

ARROW_SCHEMES = frozenset({"s3", "gs"})
"""Object stores that Arrow reads several times faster than fsspec (440 against 160 objects a second)."""

ATTEMPTS = 6
"""Attempts of a read while the store answers with transient errors."""

FIRST_DELAY_S = 0.5
"""Pause before the second attempt; doubled before each further attempt, with a random factor."""

OPTIONS = {
    "endpoint": ("AWS_ENDPOINT_URL",),
    "region": ("AWS_REGION", "AWS_DEFAULT_REGION"),
    "profile": ("AWS_PROFILE",),
    "key": ("AWS_ACCESS_KEY_ID",),
    "secret": ("AWS_SECRET_ACCESS_KEY",),
    "token": ("AWS_SESSION_TOKEN",),
    "http": (WEB_VARIABLE,),
}
"""Name in --storage-options → the variables that all storage libraries read."""

_PREFIXES = ("AWS_", "GOOGLE_", "AZURE_")
_SECRET = re.compile(r"SECRET|TOKEN|PASSWORD|ACCESS_KEY|ACCOUNT_KEY|SAS|CREDENTIALS|CONNECTION_STRING")

MIN_SECRET = 6
"""Characters of a secret that is left out of messages; a shorter one is part of words."""

ErrorKind = Literal["missing", "forbidden", "credentials", "transient", "other"]

_CREDENTIALS = re.compile(
    r"INVALID_ACCESS_KEY_ID|SIGNATURE_DOES_NOT_MATCH|EXPIRED_TOKEN|INVALID_CLIENT_TOKEN_ID|UNRECOGNIZED_CLIENT|"
    r"InvalidAccessKeyId|SignatureDoesNotMatch|ExpiredToken|InvalidToken|NoCredentials|Unable to locate credentials|"
    r"access key ID you provided does not exist|request signature we calculated does not match",
    re.IGNORECASE,
)
_FORBIDDEN = re.compile(r"ACCESS_DENIED|AccessDenied|Forbidden|HTTP status 403", re.IGNORECASE)
_MISSING = re.compile(r"NO_SUCH_KEY|NO_SUCH_BUCKET|NoSuchKey|NoSuchBucket|HTTP status 404", re.IGNORECASE)
_UNLIKE_PATHS = frozenset({"", ".", ".."})
"""Parts of keys that Arrow refuses or resolves as in paths of files, as in `a//b.png`; s3fs takes keys as they are."""
_TRANSIENT_LOCAL = {errno.EIO, errno.EAGAIN, errno.ETIMEDOUT, errno.ESTALE, errno.EINTR, errno.EBUSY}
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_S3_ERROR = re.compile(r"<Code>([^<]*)</Code>.*?<Message>([^<]*)</Message>", re.DOTALL)

T = TypeVar("T")
_storage_options: dict[str, str] = {}


class CredentialsError(RuntimeError):
    """The store rejects the credentials, so no image can be read."""


class StorageDownError(RuntimeError):
    """The store gave only transient errors for many images in a row."""


def use_storage_options(options: Sequence[str]) -> None:
    """Put `name=value` pairs into the environment of this process, for all storage libraries and a local Ray.

    Args:
        options: names of `OPTIONS`, or variables that begin with AWS_, GOOGLE_ or AZURE_.

    Raises:
        ValueError: an option is not such a pair; the message does not contain it.
    """
    for number, option in enumerate(options, 1):
        name, equals, value = option.partition("=")
        variables = OPTIONS.get(name) or ((name,) if name.startswith(_PREFIXES) else ())
        if not equals or not variables:
            # What stands before = may be a secret as well, if the name was left out.
            near = difflib.get_close_matches(name.lower(), OPTIONS, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise ValueError(
                f"entry {number} of --storage-options has no name that is known; {hint}expected name=value with one "
                f"of {', '.join(OPTIONS)}, or a variable that begins with {', '.join(_PREFIXES)}"
            )
        _storage_options.update(dict.fromkeys(variables, value))
        os.environ.update(dict.fromkeys(variables, value))


def environment_for_cluster() -> dict[str, str]:
    """The variables of --storage-options, for the machines of a cluster, which stores and shows them.

    Raises:
        ValueError: one of them is a secret.
    """
    secret = sorted(name for name in _storage_options if _SECRET.search(name))
    if secret:
        raise ValueError(
            f"--storage-options gives {', '.join(secret)}, which would be stored and shown by the cluster; give its "
            "machines a role or a profile instead"
        )
    return dict(_storage_options)


def known_secrets() -> list[str]:
    """The values of --storage-options, and of the environment, that no message may contain."""
    values = [
        value for name, value in os.environ.items() if name.startswith(_PREFIXES) and _SECRET.search(name)
    ]
    return [value for value in values if len(value) >= MIN_SECRET]


def open_file(uri: str) -> IO[bytes]:
    """A file to be read, in any order.

    Raises:
        ValueError: as of `filesystem_of`.
        OSError: it does not exist, is on this machine and not a regular file, or cannot be read.
    """
    path = local_path(uri)
    if path is not None:
        return open_local(path)
    filesystem, path = filesystem_of(uri)
    file: IO[bytes] = filesystem.open(path, "rb")
    return file


def uri_of(filesystem: fsspec.AbstractFileSystem, path: str) -> str:
    """The uri with which a worker opens a path of a file system."""
    if "file" in filesystem.protocol and path.startswith("/"):
        return path
    return str(filesystem.unstrip_protocol(path)).removeprefix("file://")


def read_bytes(uri: str, max_bytes: int | None = None) -> bytes:
    """The whole content of one file; transient errors are retried.

    Args:
        max_bytes: None reads files of any size.

    Raises:
        OSError: it does not exist, is on this machine and not a regular file, or cannot be read.
        FileTooLargeError: it is larger than `max_bytes`; not more than one further byte is read.
        ValueError: its scheme is not read (`addresses`).
        CredentialsError: the store rejects the credentials.
    """
    return with_retries(lambda: _read(uri, max_bytes), uri)


def with_retries(action: Callable[[], T], uri: str, *, pause: Callable[[float], None] = time.sleep) -> T:
    """The result of `action`, which is repeated while the store answers with transient errors.

    Args:
        uri: what the action reads or writes, for `classify_error` and messages.
        pause: waits for a number of seconds.

    Raises:
        CredentialsError: the store rejects the credentials.
        Exception: what the last attempt raised.
    """
    for attempt in range(ATTEMPTS):
        try:
            return action()
        except Exception as error:  # each storage library raises its own
            kind = classify_error(error, uri)
            if kind == "forbidden" and _credentials_rejected(uri):
                kind = "credentials"
            if kind == "credentials":
                raise CredentialsError(
                    f"the store refuses the credentials for {uri}: {describe_error(error)}; check the keys, "
                    "their profile, and whether a token has expired"
                ) from error
            if kind != "transient" or attempt == ATTEMPTS - 1:
                raise
            pause(FIRST_DELAY_S * 2**attempt * random.uniform(0.5, 1.5))
    raise AssertionError("the last attempt returns or raises")


def classify_error(error: BaseException, uri: str) -> ErrorKind:
    """What an error of pyarrow, fsspec, s3fs or deltalake means for the file; few local errors are transient."""
    text = f"{type(error).__name__} {error}"
    if _CREDENTIALS.search(text):
        return "credentials"
    if isinstance(error, FileNotFoundError) or _MISSING.search(text):
        return "missing"
    if isinstance(error, PermissionError) or _FORBIDDEN.search(text):
        return "forbidden"
    if type(error).__name__ == "CommitFailedError":
        return "other"
    if local_path(uri) is not None:
        return "transient" if isinstance(error, OSError) and error.errno in _TRANSIENT_LOCAL else "other"
    if isinstance(error, (ValueError, IsADirectoryError, NotADirectoryError)) and not isinstance(
        error, OSError
    ):
        return "other"
    is_final = isinstance(error, (IsADirectoryError, NotADirectoryError)) or (
        isinstance(error, OSError) and error.errno == errno.EINVAL  # s3fs: the store calls the request wrong
    )
    return "other" if is_final else "transient"


def describe_error(error: BaseException) -> str:
    """The text of an error in one line without colour codes; of an S3 server's answer, its code and message."""
    text = _COLOUR.sub("", str(error))
    match = _S3_ERROR.search(text)
    if match:
        return f"{match[1]}: {match[2]}"
    lines = [line.strip().removeprefix("↳").strip() for line in text.strip().splitlines()]
    return ": ".join(line for line in lines if line)[:400] or type(error).__name__


def storage_options(uri: str) -> dict[str, str]:
    """Options of the Delta library besides the environment: endpoints without TLS must be allowed."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL", "")
    return {"AWS_ALLOW_HTTP": "true"} if uri.startswith("s3") and endpoint.startswith("http://") else {}


def _read(uri: str, max_bytes: int | None) -> bytes:
    path = local_path(uri)
    if path is not None:
        return read_local(path, max_bytes)
    scheme, _, rest = uri.partition("://")
    if scheme in ARROW_SCHEMES and _UNLIKE_PATHS.isdisjoint(rest.split("/")[1:]):
        with _arrow_filesystem(scheme, rest.partition("/")[0]).open_input_file(rest) as stream:
            refuse_large(uri, stream.size(), max_bytes)
            return read_bounded(stream, uri, max_bytes)
    if is_web(uri):
        content = read_web(uri, max_bytes)
        refuse_large(uri, len(content), max_bytes)
        return content
    with open_file(uri) as file:
        refuse_large(uri, getattr(file, "size", None), max_bytes)
        return read_bounded(file, uri, max_bytes)


def _credentials_rejected(uri: str) -> bool:
    """Whether a file is forbidden because the credentials are invalid; a read alone gives the same error for both."""
    scheme, _, rest = uri.partition("://")
    if scheme not in ARROW_SCHEMES:
        return False
    bucket = rest.partition("/")[0]
    return _bucket_refuses(scheme, bucket, int(time.monotonic() / 60))


@functools.lru_cache(maxsize=64)
def _bucket_refuses(scheme: str, bucket: str, minute: int) -> bool:
    """Whether listing the bucket fails because of the credentials; tried once a minute."""
    try:
        _arrow_filesystem(scheme, bucket).get_file_info(
            pyarrow.fs.FileSelector(f"{bucket}/zs3-none/", allow_not_found=True)
        )
    except Exception as error:
        return classify_error(error, f"{scheme}://{bucket}") == "credentials"
    return False


@functools.cache
def _arrow_filesystem(scheme: str, bucket: str) -> pyarrow.fs.FileSystem:
    """The file system of a bucket; cached, so each process has one connection pool per bucket."""
    return pyarrow.fs.FileSystem.from_uri(f"{scheme}://{bucket}")[0]
