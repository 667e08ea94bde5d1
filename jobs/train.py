"""Train a recipe on seen classes: `zs3 train mini --data-root DATA --out runs`, or on a cluster

ray job submit --working-dir . -- python jobs/train.py mini --data-root s3://bucket/data --out s3://bucket/runs
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Annotated

import tyro

from jobs.cli.exit_codes import DONE, guarded
from jobs.cli.options import print_json
from pipelines.execution import Execution
from pipelines.ray_session import start_ray
from pipelines.training.train import TrainRequest, Workers, train
from pipelines.training.worker import TrainingProgress
from zs3.config import Recipe
from zs3.recipes import RECIPES, recipe

USAGE = f"""\
usage: zs3 train RECIPE --data-root URI [--out URI] [--set.SECTION.FIELD VALUE ...] [--workers.FIELD VALUE ...]

recipes: {", ".join(RECIPES)}
`zs3 train RECIPE --help` lists every field with its value in that recipe.
"""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Train a recipe on the seen classes of its data sets; the same command goes on where a stopped run ended."""

    data_root: str
    """Folder or uri that holds the recipe's data sets."""
    out: str = "runs"
    """Storage path of runs; a run's folder is named by recipe and digest, its result is `checkpoint` below it."""
    json: bool = False
    """Print the result as one line of JSON, the last of standard output."""
    ray_address: str | None = None
    """Ray to join; by default RAY_ADDRESS, else a Ray of its own on this machine."""
    workers: Workers = field(default_factory=Workers)
    """How to run; changes no result but by rounding."""
    set: Annotated[Recipe, tyro.conf.arg(name="set")]
    """Fields of the recipe to replace."""


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code of one training run."""
    return guarded(lambda: _run(list(sys.argv[1:] if argv is None else argv)))


def _run(argv: list[str]) -> int:
    if not argv or argv[0].startswith("-"):
        sys.stderr.write(USAGE)
        return DONE if argv[:1] in (["-h"], ["--help"]) else 2
    chosen = recipe(argv[0])
    arguments = tyro.cli(
        Arguments,
        prog=f"zs3 train {chosen.name}",
        args=argv[1:],
        default=Arguments(data_root=tyro.MISSING, set=chosen),
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    start_ray(Execution(ray_address=arguments.ray_address))
    request = TrainRequest(recipe=arguments.set, data_root=arguments.data_root, out=arguments.out)
    result = train(request, arguments.workers, on_progress=_show)
    sys.stderr.write(
        f"trained {result.steps} steps, from step {result.resumed_at}, in {result.seconds:.0f} s\n"
        f"label with it: zs3 label --checkpoint {result.checkpoint} --images URI --classes FILE --out URI\n"
    )
    if arguments.json:
        print_json(asdict(result))
    return DONE


def _show(seen: TrainingProgress) -> None:
    """One line of progress on standard error."""
    terms = "  ".join(f"{name.removeprefix('loss_')} {value:.3f}" for name, value in seen.terms.items())
    sys.stderr.write(
        f"step {seen.step}/{seen.steps}  loss {seen.loss:.3f}  {terms}  "
        f"{seen.images_per_second:.1f} images/s  {seen.seconds_left / 60:.1f} min left\n"
    )


if __name__ == "__main__":
    sys.exit(main())
