"""Train a recipe on seen classes: `zs3 train mini --data-root DATA --out runs`, or on a cluster

ray job submit --working-dir . -- python jobs/train.py mini --data-root s3://bucket/data --out s3://bucket/runs
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Annotated

import tyro

from jobs.cli.exit_codes import DONE, WRONG_USAGE, guarded
from jobs.cli.options import print_json
from jobs.cli.terminal import write_messages
from pipelines.execution import RaySettings
from pipelines.ray_session import start_ray
from pipelines.training.train import TrainRequest, Workers, refuse_missing, train
from pipelines.training.worker import TrainingProgress
from zs3.config import Recipe
from zs3.recipes import RECIPES, note, recipe

USAGE = f"""\
usage: zs3 train RECIPE --data-root URI [--out URI] [--set.SECTION.FIELD VALUE ...] [--workers.FIELD VALUE ...]

recipes: {", ".join(RECIPES)}
`zs3 train RECIPE --help` says what is known of the recipe and lists all its fields with their values.
"""


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Train a recipe on the seen classes of its data sets. The same command continues a run that was stopped.

    Exit codes: 0 the checkpoint is complete, 1 stopped by an error, 2 wrong usage.
    """

    data_root: str
    """Folder or uri that contains the recipe's data sets."""
    out: str = "runs"
    """Folder or uri of runs. A run's subfolder is named after recipe and digest; its result is `checkpoint` in it."""
    json: bool = False
    """Print the result as one line of JSON, the last line of standard output."""
    ray_address: str | None = None
    """Ray to join; by default RAY_ADDRESS, else a Ray of its own on this machine."""
    workers: Workers = field(default_factory=Workers)
    """How to run. These options change results only by rounding."""
    set: Annotated[Recipe, tyro.conf.arg(name="set")]
    """Fields of the recipe to replace."""


def parse_options(argv: Sequence[str]) -> TrainOptions:
    """The options of a command line that begins with the name of a recipe.

    Raises:
        SystemExit: wrong usage, or --help.
        ValueError: there is no such recipe.
    """
    chosen = recipe(argv[0])
    return tyro.cli(
        TrainOptions,
        prog=f"zs3 train {chosen.name}",
        description=_description(argv[0]),
        args=argv[1:],
        default=TrainOptions(data_root=tyro.MISSING, set=chosen),
        config=(tyro.conf.FlagCreatePairsOff,),
    )


def _description(name: str) -> str:
    """What is known of a recipe, each of its remarks in a paragraph, and what the command does."""
    remarks = re.sub(r"\n(?=[A-Z][^.\n]{0,50}: )", "\n\n", note(name))
    return f"{remarks}\n\n{inspect.getdoc(TrainOptions)}"


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code of one training run.

    Args:
        argv: the command line after the command; by default the process's own.
    """
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0].startswith("-"):
        sys.stderr.write(USAGE)
        return DONE if argv[:1] in (["-h"], ["--help"]) else WRONG_USAGE
    return guarded(lambda: _run(parse_options(argv)))


def _run(options: TrainOptions) -> int:
    request = TrainRequest(recipe=options.set, data_root=options.data_root, out=options.out)
    refuse_missing(request)
    start_ray(RaySettings(ray_address=options.ray_address))
    result = train(request, options.workers, on_progress=_write_progress)
    write_messages(
        [
            f"trained {result.steps} steps, from step {result.resumed_at}, in {result.seconds:.0f} s",
            f"label with it: zs3 label --checkpoint {result.checkpoint} --images URI --classes FILE --out URI",
        ]
    )
    if options.json:
        print_json(asdict(result))
    return DONE


def _write_progress(progress: TrainingProgress) -> None:
    """Write one line of progress to standard error."""
    terms = "  ".join(f"{name.removeprefix('loss_')} {value:.3f}" for name, value in progress.terms.items())
    sys.stderr.write(
        f"step {progress.step}/{progress.steps}  loss {progress.loss:.3f}  {terms}  "
        f"{progress.images_per_second:.1f} images/s  {progress.seconds_left / 60:.1f} min left\n"
    )


if __name__ == "__main__":
    sys.exit(main())
