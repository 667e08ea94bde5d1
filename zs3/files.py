"""Where a path or uri lies. fsspec's own `url_to_fs` splits names at `::`."""

from __future__ import annotations

import os
from pathlib import Path

import fsspec


def filesystem_and_path(uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The file system of a local path, as it is written, or of a uri, and the path in it.

    Raises:
        ValueError: there is no such scheme, or its driver is missing.
    """
    scheme, separator, _ = uri.partition("://")
    if not separator or "/" in scheme:
        return fsspec.filesystem("file"), os.path.normpath(Path(uri).expanduser().absolute())
    try:
        kind = fsspec.get_filesystem_class(scheme)
        return fsspec.filesystem(scheme, **kind._get_kwargs_from_urls(uri)), kind._strip_protocol(uri)
    except (ValueError, ImportError) as error:
        raise ValueError(
            f"cannot open {uri!r}: {error}; expected a local path or a uri such as s3://bucket/folder"
        ) from error
