"""What commands write: every line goes through here, without secrets and without control characters of others."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from zs3.wording import printable, redacted


def clean(text: str) -> str:
    """One line that a terminal shows as it is, without secrets."""
    from pipelines.storage.objects import known_secrets  # slow to import, and `zs3 --help` needs none

    return printable(redacted(text, known_secrets()))


def write_lines(lines: Iterable[str]) -> None:
    """Write lines to standard output."""
    sys.stdout.write("".join(f"{clean(line)}\n" for line in lines))


def write_messages(lines: Iterable[str]) -> None:
    """Write lines to standard error."""
    sys.stderr.write("".join(f"{clean(line)}\n" for line in lines))
