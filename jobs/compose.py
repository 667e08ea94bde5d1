"""Make a checkpoint of published models that were never trained together: a mask source and an image-text encoder.

zs3 compose --masks facebook/mask2former-swin-large-coco-panoptic \\
    --encoder convnext_large_d_320/laion2b_s29b_b131k_ft_soup --out models/strong
zs3 label --checkpoint models/strong --images photos/ --classes coco_stuff --out run/
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from jobs.cli.exit_codes import DONE, guarded
from jobs.cli.options import parse_command_line, print_json
from jobs.cli.terminal import write_messages
from zs3.convert.compose import Composition, compose


@dataclass(frozen=True, slots=True, kw_only=True)
class ComposeOptions:
    """Make a checkpoint that refers to published models: one gives masks, one embeds what is under them.

    Models are names on the Hugging Face hub or folders. This command downloads them, once, into the hub's cache;
    commands that use the checkpoint read them there and go to no network. With HF_HUB_OFFLINE=1 it takes folders and
    what the cache has. Of the hub only safetensors are read, and no code. The checkpoint holds names, commits, digests
    and licences, and no weights; it is refused once a model has changed.
    """

    masks: str
    """Mask source: a Mask2Former, EoMT, OneFormer or SAM 2 as transformers saves it. Its class names are not used."""
    encoder: str
    """Image-text encoder of open_clip: ARCHITECTURE/TAG, ARCHITECTURE/FILE, a name on the hub, a folder as on the hub,
    or a file in OpenAI's layout."""
    out: Path
    """New folder for the checkpoint; `--checkpoint` takes it."""
    embedding: Literal["crops", "pooled", "class_tokens"] | None = None
    """How the encoder embeds a mask: one crop each; its features pooled under the mask (ConvNeXt, ResNet, ViT); or a
    class token that sees the patches under the mask (ViT, SigLIP). By default pooled for ConvNeXt and ResNet,
    class_tokens for ViT and SigLIP."""
    json: bool = False
    """Print the result as one line of JSON, the last of standard output."""


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code of one composition.

    Args:
        argv: the command line without the command; None takes that of the process.
    """
    return guarded(lambda: _run(argv))


def _run(argv: Sequence[str] | None) -> int:
    options = parse_command_line(ComposeOptions, "zs3 compose", argv)
    result = compose(options.masks, options.encoder, options.out, options.embedding)
    write_messages(_summary(result).splitlines())
    if options.json:
        print_json(asdict(result))
    return DONE


def _summary(result: Composition) -> str:
    lines = [f"masks of {result.family}, embedded by {result.embedding}"]
    for role, part in result.parts.items():
        at = f" at {part.revision[:12]}" if part.revision else ""
        licence = f"licence {part.licence}" if part.licence else "its page names no licence"
        told = "; read its terms before you use or share it: the checkpoint holds none of its weights"
        lines.append(f"{role} {part.name}{at}: {licence}{told if part.restricted else ''}")
    lines.append(
        f"label with it: zs3 label --checkpoint {result.checkpoint} --images URI --classes FILE --out URI"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
