"""From the command line to a request, and from a result to the one line of JSON: every command uses these."""

from __future__ import annotations

import dataclasses
import inspect
import io
import json
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from typing import Any, TypeVar

import tyro

from pipelines.ray_session import leave_ray
from zs3.wording import map_texts, redacted

Options = TypeVar("Options")
Request = TypeVar("Request")


def parse_command_line(kind: type[Options], prog: str, argv: Sequence[str] | None) -> Options:
    """The options of a command line.

    Args:
        kind: a dataclass, whose docstrings are the help.
        prog: name of the command in the help.
        argv: without the command; None takes those of the process.
    """
    _order_fields(kind)
    config = (tyro.conf.FlagCreatePairsOff, tyro.conf.OmitSubcommandPrefixes)
    words = list(sys.argv[1:] if argv is None else argv)
    without_secrets = [redacted(word) for word in words]
    if words == without_secrets:
        return tyro.cli(kind, prog=prog, args=words, config=config)
    try:
        with redirect_stderr(io.StringIO()), redirect_stdout(io.StringIO()):
            return tyro.cli(kind, prog=prog, args=words, config=config)
    except SystemExit as end:  # tyro's messages repeat the words
        tyro.cli(kind, prog=prog, args=without_secrets, config=config)
        raise SystemExit(end.code) from None


def _order_fields(kind: type[Any]) -> None:
    """Let --help list required options first, and those of a class before those that it inherits.

    tyro lists fields in the order of the dataclass, in which inherited ones come first.
    """
    bases = reversed(list(enumerate(kind.__mro__)))
    place = {name: index for index, base in bases for name in inspect.get_annotations(base)}

    def order(item: tuple[str, dataclasses.Field[Any]]) -> tuple[bool, int]:
        name, field = item
        required = field.default is field.default_factory is dataclasses.MISSING
        return not required, place[name]

    kind.__dataclass_fields__ = dict(sorted(kind.__dataclass_fields__.items(), key=order))


def request_from(options: object, kind: type[Request], **changes: Any) -> Request:
    """A request whose fields are the options of the same names.

    Args:
        kind: a dataclass.
        changes: fields that have other values than the options.
    """
    names = [field.name for field in dataclasses.fields(kind) if field.name not in changes]  # type: ignore[arg-type]
    return kind(**{name: getattr(options, name) for name in names}, **changes)


def print_json(values: Mapping[str, Any]) -> None:
    """Write a result as the last line of standard output; leaves Ray first, which may write there afterwards."""
    leave_ray()
    line = json.dumps(map_texts(values, redacted), ensure_ascii=False)
    # JSON leaves some control characters as they are; escaped, they have the same meaning.
    sys.stdout.write(re.sub("[\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]", _escaped, line) + "\n")


def _escaped(match: re.Match[str]) -> str:
    return f"\\u{ord(match[0]):04x}"
