"""Put a trained run into the package as zs3-mini: float16 weights, today's naming settings, nothing else changed.

    zs3 train mini_base --data-root DATA --out runs
    zs3 train mini --data-root DATA --out runs --set.training.start runs/mini_base-…/checkpoint
    python benchmarks/model/ship_mini.py runs/mini-…/checkpoint

Refused where the run was not trained by today's recipe: what ships must be what the command makes.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from zs3.checkpoint import SHIPPED, WEIGHTS, load_checkpoint, save_checkpoint
from zs3.recipes import recipe

LIMIT_MB = 25


def main() -> None:
    """Write zs3/weights/zs3-mini."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", help="the checkpoint folder of a finished run")
    parser.add_argument("--out", type=Path, default=SHIPPED / "zs3-mini")
    options = parser.parse_args()
    trained, today = load_checkpoint(options.checkpoint), recipe("mini")
    # Where the first training lay is the maker's affair; what it was is in docs/mini.md.
    started = replace(trained.recipe.training, start=today.training.start)
    trained = replace(trained, recipe=replace(trained.recipe, training=started))
    for part in ("model", "query_text", "training"):
        if getattr(trained.recipe, part) != getattr(today, part):
            raise SystemExit(
                f"{options.checkpoint} was trained with another {part} than the recipe mini has today; train it again"
            )
    save_checkpoint(options.out, today, trained.network(), trained.seen_classes, half=True)
    size = (options.out / WEIGHTS).stat().st_size / 1e6
    if size > LIMIT_MB:
        raise SystemExit(f"{options.out / WEIGHTS} has {size:.1f} MB; at most {LIMIT_MB} ship")
    sys.stdout.write(f"{options.out}: {size:.1f} MB, digest {load_checkpoint(str(options.out)).digest}\n")


if __name__ == "__main__":
    main()
