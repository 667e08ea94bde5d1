"""Text for people: lists of names, text without secrets, text that a terminal shows as it is."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

REDACTED = "***"
"""Stands in the place of a secret."""

_USER = re.compile(r"(?<=://)[^\s/@'\"]*@(?:[^\s/@'\"]*@)*")
_PAIR = re.compile(
    r"""(?<![\w/-])([\w-]*(?:secret|token|password|passwd|signature|credential|access[_-]?key|account[_-]?key|api[_-]?key)
    [\w-]*|key|sig|pwd)=("[^"]*"|'[^']*'|[^\s&'",;)\]}]+)""",
    re.IGNORECASE | re.VERBOSE,
)
"""name=value, not in a path as `key=5/` is."""

_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, ends of lines, changes of direction, and halves of characters."""


def redacted(text: str, secrets: Iterable[str] = ()) -> str:
    """A text without the user and password of uris, without the values of pairs such as `secret=…`.

    Args:
        secrets: what is left out wherever it is.
    """
    for secret in secrets:
        text = text.replace(secret, REDACTED)
    if "@" in text:
        text = _USER.sub(f"{REDACTED}@", text)
    return _PAIR.sub(rf"\1={REDACTED}", text) if "=" in text else text


def passwords_in(uri: str) -> list[str]:
    """The password of a uri; libraries repeat it in messages where it no longer looks like one."""
    user, _, password = uri.partition("://")[2].partition("/")[0].rpartition("@")[0].partition(":")
    return [password] if user and password else []


def printable(text: str) -> str:
    """One line in which nothing controls the terminal: such characters are shown as `\\x1b`."""
    return _CONTROLS.sub(lambda match: ascii(match[0])[1:-1], text)


def map_texts(value: Any, change: Callable[[str], str]) -> Any:
    """A nested value of JSON whose texts and keys are changed."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {map_texts(key, change): map_texts(entry, change) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [map_texts(entry, change) for entry in value]
    return value


def shortened(value: object) -> str:
    """A value as Python writes it, without the end of a long one."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def first_names(names: Iterable[object], most: int = 5, *, count: int | None = None) -> str:
    """The first few of some names, as `a, b, c and 5 more`; `none` where there are none.

    Args:
        names: all of them, or the first ones.
        most: how many are written out.
        count: how many there are in all; by default as many as `names` holds.
    """
    listed = [str(name) for name in names]
    more = (len(listed) if count is None else count) - min(most, len(listed))
    return (", ".join(listed[:most]) or "none") + (f" and {more} more" if more > 0 else "")


def number_of(count: int, singular: str, plural: str | None = None) -> str:
    """A number with its noun: `1 image`, `2 images`, `1,000 strata`.

    Args:
        singular: the noun for one.
        plural: for any other number; by default the singular and an s.
    """
    return f"{count:,} {singular if count == 1 else plural or singular + 's'}"
