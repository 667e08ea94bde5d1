"""List every model, or show one: `zs3 models`, `zs3 models fcclip_convnext_large`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated

import tyro

from jobs.cli.exit_codes import DONE, guarded
from jobs.cli.options import parse_command_line, print_json
from jobs.cli.terminal import write_lines
from zs3.models import Model, model, models

HOW = {"shipped": "in the package", "convert": "zs3 convert", "train": "zs3 train"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelsOptions:
    """List every model, or show one: what it is, its licences, published numbers, cost, and the commands to labels."""

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="[NAME]")] = ""
    """The model to show; without it all are listed."""
    json: bool = False
    """Print one line of JSON instead."""


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code.

    Args:
        argv: the command line without the command; None takes that of the process.
    """
    return guarded(lambda: _run(parse_command_line(ModelsOptions, "zs3 models", argv)))


def _run(options: ModelsOptions) -> int:
    shown = [model(options.name)] if options.name else list(models().values())
    if options.json:
        print_json(asdict(shown[0]) if options.name else {"models": [asdict(one) for one in shown]})
    else:
        write_lines(_card(shown[0]) if options.name else _table(shown))
    return DONE


def _table(shown: Sequence[Model]) -> list[str]:
    """One line for each model."""
    rows = [("model", "parameters", "A-150", "checkpoint by", "weights' licence")]
    for one in shown:
        score = f"{one.published['A-150']:.1f}" if "A-150" in one.published else "-"
        licence = one.weights_licence.partition(" (")[0].partition(";")[0]
        rows.append((one.name, f"{one.parameters / 1e6:.1f} M", score, HOW[one.source], licence))
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
    return [
        *lines,
        "",
        "A-150: published mIoU on ADE20K. zs3 models NAME shows the rest, and the commands to labels.",
    ]


def _card(one: Model) -> list[str]:
    """All about one model."""
    trained = (
        f", {one.trained / 1e6:.1f} M of them trained"
        if one.trained and one.trained != one.parameters
        else ""
    )
    published = ", ".join(f"{key} {value:g}" for key, value in one.published.items())
    cost = (
        f"{one.cost['seconds']:g} s and {one.cost['peak_mb']:g} MB at most for 853 x 640 pixels on 2 cores"
        if one.cost
        else "not measured"
    )
    facts = {
        "parameters": f"{one.parameters / 1e6:.1f} M{trained}",
        "encoders": one.encoders,
        "published": f"{published} ({one.published_in})" if published else one.published_in,
        "cost": cost,
        "weights": one.weights,
        "licence": f"code {one.code_licence}; weights {one.weights_licence}",
        "sharing": one.redistribution,
    }
    lines = [f"{one.name}: {one.what}", "", *(f"{key:<12}{value}" for key, value in facts.items())]
    return [*lines, "", "From nothing to labels:", *(f"    {command}" for command in one.commands)]


if __name__ == "__main__":
    sys.exit(main())
