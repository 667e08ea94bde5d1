"""Turn an official ZegFormer checkpoint into one of zs3.

zs3 convert OFFICIAL.pth --out models/coco_stuff_r101
zs3 label --checkpoint models/coco_stuff_r101 --images photos/ --classes coco_stuff --out run/
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import tyro

from jobs.cli.exit_codes import DONE, guarded
from zs3.convert.zegformer import Conversion, convert


@dataclass(frozen=True, slots=True, kw_only=True)
class Arguments:
    """Turn a checkpoint of the published code (detectron2's layout, with CLIP's weights or without) into one of zs3.

    Nothing in the file is run: tensors alone are read. Every tensor must have its place in the recipe's network.
    """

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="OFFICIAL.pth")]
    """Path or uri of the official checkpoint."""
    out: Path
    """New folder for the checkpoint; `--checkpoint` takes it."""
    recipe: str | None = None
    """Recipe that describes it, a name or a recipe.json; by default what the checkpoint tells."""
    json: bool = False
    """Print the result as one line of JSON, the last of standard output."""


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code of one conversion.

    Args:
        argv: the command line after the verb; by default the process's own.
    """
    return guarded(lambda: _run(list(sys.argv[1:] if argv is None else argv)))


def _run(argv: list[str]) -> int:
    arguments = tyro.cli(Arguments, args=argv, prog="zs3 convert", config=(tyro.conf.FlagCreatePairsOff,))
    done = convert(arguments.source, arguments.out, arguments.recipe)
    sys.stderr.write(_summary(done))
    if arguments.json:
        sys.stdout.write(json.dumps(asdict(done)) + "\n")
    return DONE


def _summary(done: Conversion) -> str:
    chosen = f"because of {done.why}; --recipe chooses another" if done.why else "as asked"
    clip = f", {done.clip_tensors_left_out} tensors of CLIP left out" if done.clip_tensors_left_out else ""
    return (
        f"recipe {done.recipe}, {chosen}\n"
        f"{done.tensors} tensors with {done.parameters:,} numbers{clip}; {done.seen_classes} seen classes\n"
        f"label with it: zs3 label --checkpoint {done.checkpoint} --images URI --classes FILE --out URI\n"
    )


if __name__ == "__main__":
    sys.exit(main())
