"""Turn a released checkpoint of ZegFormer, FC-CLIP or MAFT+ into one of zs3.

zs3 convert RELEASED.pth --out models/coco_stuff_r101
zs3 convert fcclip_cocopan.pth --out models/fcclip
zs3 label --checkpoint models/coco_stuff_r101 --images photos/ --classes coco_stuff --out run/
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import tyro

from jobs.cli.exit_codes import DONE, guarded
from jobs.cli.options import parse_command_line, print_json
from jobs.cli.terminal import write_messages
from zs3.convert.zegformer import Conversion, convert
from zs3.wording import first_names, number_of


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertOptions:
    """Turn a checkpoint of the published ZegFormer, FC-CLIP or MAFT+ into one of zs3.

    The model is recognised by the names of its tensors. The checkpoint has detectron2's layout, with or without CLIP's
    weights; a converted FC-CLIP or MAFT+ holds its CLIP too. Prefixes of names, as `module.`, are left out, and weights
    of less than 32 bits become float32. Only tensors are read; a file that contains code is refused. Every tensor must
    fit the recipe's network.
    """

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RELEASED.pth")]
    """Path or uri of the released checkpoint."""
    out: Path
    """New folder for the checkpoint; `--checkpoint` takes it."""
    recipe: str | None = None
    """Recipe, a name or a recipe.json. If absent, it is inferred from class and block counts, and printed."""
    clip: str | None = None
    """FC-CLIP and MAFT+: CLIP's weights, a pretrained tag of open_clip or a file in its names, instead of those in the
    checkpoint. If the checkpoint has none, the tag that the release was trained on is fetched."""
    ema: bool = False
    """Take the exponential moving average of the weights, where the file has it besides them."""
    json: bool = False
    """Print the result as one line of JSON, the last of standard output."""


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code of one conversion.

    Args:
        argv: the command line without the command; None takes that of the process.
    """
    return guarded(lambda: _run(argv))


def _run(argv: Sequence[str] | None) -> int:
    options = parse_command_line(ConvertOptions, "zs3 convert", argv)
    result = convert(options.source, options.out, options.recipe, clip=options.clip, ema=options.ema)
    write_messages(_summary(result).splitlines())
    if options.json:
        print_json(asdict(result))
    return DONE


def _summary(result: Conversion) -> str:
    choice = f"because of {result.why}; --recipe chooses another" if result.why else "as asked"
    clip = (
        f", {number_of(result.clip_tensors_left_out, 'tensor')} of CLIP left out"
        if result.clip_tensors_left_out
        else ""
    )
    prefix = f" below {result.prefix!r}" if result.prefix else ""
    others = (
        f"; not used: those below {first_names(map(repr, result.other_weights))}"
        if result.other_weights
        else ""
    )
    return (
        f"recipe {result.recipe}, {choice}\n"
        f"{number_of(result.tensors, 'tensor')} with {number_of(result.parameters, 'number')}{clip}; "
        f"{number_of(result.seen_classes, 'seen class', 'seen classes')}\n"
        f"weights{prefix} are {result.precision} in the file and stored as float32{others}\n"
        f"label with it: zs3 label --checkpoint {result.checkpoint} --images URI --classes FILE --out URI\n"
    )


if __name__ == "__main__":
    sys.exit(main())
