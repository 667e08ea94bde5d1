"""Which paths and uris are read: files of this machine, objects in stores, and pages of the web where that is allowed.

Lists of images come from elsewhere. An entry must not make a worker read a device, another protocol, or an address
that only this machine can reach, such as the metadata service of a cloud.
"""

from __future__ import annotations

import http.client
import ipaddress
import os
import socket
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urlsplit

STORES = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "memory"})
"""Schemes of object stores; `memory` is a store in this process, for tests."""

WEB = frozenset({"http", "https"})

WEB_VARIABLE = "ZS3_ALLOW_HTTP"
"""Environment variable, also `--storage-options http=…`: `public` allows hosts with public addresses, `any` all."""

WEB_TIMEOUT_S = 60.0
"""Seconds without a byte after which a web server counts as unreachable."""

_LOCAL = ("file", "local")


def local_path(uri: str) -> str | None:
    """The path of a file on this machine, as it is written; None for other uris.

    Args:
        uri: a path, or a uri such as `file:///photos/1.jpg` or `local:///photos/1.jpg`, without percent-encoding.
    """
    scheme, separator, rest = uri.partition("://")
    if not separator or "/" in scheme:
        return uri
    return rest if scheme.lower() in _LOCAL else None


def is_web(uri: str) -> bool:
    """Whether a uri is a page of the web."""
    return uri.partition("://")[0] in WEB


def checked_scheme(uri: str) -> str:
    """The scheme of a uri that is not local, if it may be read.

    Raises:
        ValueError: it may not; for pages of the web also if the host may not be asked.
    """
    scheme = uri.partition("://")[0]
    if scheme in WEB:
        _checked_addresses(uri)
    elif scheme not in STORES:
        raise ValueError(
            f"cannot open {uri!r}: the scheme {scheme!r} is not read; expected a local path, or a uri that begins "
            "with s3://, gs://, az:// or abfs://"
        )
    return scheme


def read_web(uri: str, max_bytes: int | None) -> bytes:
    """The content of a page; at most one byte more than `max_bytes`.

    Every host is checked where the connection is made, so neither redirects nor changing names lead elsewhere. No proxy
    is used.

    Raises:
        ValueError: the web, or this host, may not be read.
        OSError: it cannot be read.
    """
    checked_scheme(uri)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _Http(), _Https())
    try:
        with opener.open(uri, timeout=WEB_TIMEOUT_S) as answer:
            return bytes(answer.read() if max_bytes is None else answer.read(max_bytes + 1))
    except urllib.error.HTTPError as error:
        if error.code in (404, 410):
            raise FileNotFoundError(f"{uri}: HTTP status {error.code}") from error
        raise OSError(f"{uri}: HTTP status {error.code}") from error
    except urllib.error.URLError as error:
        raise error.reason if isinstance(error.reason, ValueError) else error from None


def _checked_addresses(uri: str) -> list[Any]:
    """The socket addresses of a page's host; see `checked_scheme`."""
    allowed = os.environ.get(WEB_VARIABLE, "")
    if allowed not in ("public", "any"):
        raise ValueError(
            f"cannot open {uri!r}: pages of the web are read only with --storage-options http=public, or http=any for "
            "hosts in private networks too"
        )
    parts = urlsplit(uri)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    addresses = [entry[4] for entry in socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)]
    for address in addresses:
        number = ipaddress.ip_address(str(address[0]).partition("%")[0])
        number = getattr(number, "ipv4_mapped", None) or number
        if allowed != "any" and (not number.is_global or number.is_multicast):
            raise ValueError(
                f"cannot open {uri!r}: {parts.hostname} has the address {number}, which is not public; give "
                "--storage-options http=any if it is to be read"
            )
    return addresses


def _connect(
    host_and_port: tuple[str, int], timeout: Any = None, source_address: Any = None
) -> socket.socket:
    """As `socket.create_connection`, to an address that was checked."""
    host, port = host_and_port
    name = f"[{host}]" if ":" in host else host
    addresses = _checked_addresses(f"http://{name}:{port}")
    for number, address in enumerate(addresses, 1):
        try:
            return socket.create_connection(address[:2], timeout, source_address)
        except OSError:
            if number == len(addresses):
                raise
    raise OSError(f"{host} has no address")


class _Http(urllib.request.HTTPHandler):
    def http_open(self, request: urllib.request.Request) -> Any:
        return self.do_open(_connection(http.client.HTTPConnection), request)


class _Https(urllib.request.HTTPSHandler):
    def https_open(self, request: urllib.request.Request) -> Any:
        return self.do_open(_connection(http.client.HTTPSConnection), request)


def _connection(kind: type[http.client.HTTPConnection]) -> Any:
    """Makes connections of a kind that go to checked addresses."""

    def made(host: str, **options: Any) -> http.client.HTTPConnection:
        connection = kind(host, **options)
        connection._create_connection = _connect  # type: ignore[attr-defined]
        return connection

    return made
