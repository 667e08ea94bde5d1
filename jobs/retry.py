"""Try again what failed: `zs3 retry`, `python jobs/retry.py`, or on a cluster

ray job submit --working-dir . -- python jobs/retry.py --out s3://bucket/run
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jobs import label, name, segment
from jobs.cli.exit_codes import DONE, SOME_FAILED, guarded
from jobs.cli.run_options import RunOptions, parsed, told
from pipelines.labelling.retry import failed_images, plan_retry
from pipelines.runs.run import RunResult
from pipelines.tables.delta_reader import existing_table, table_uri

DOORS: Mapping[str, Callable[..., int]] = {
    "label": label.carried_out,
    "segment": segment.carried_out,
    "name": name.carried_out,
}
"""Verb → what carries out its request."""


@dataclass(frozen=True, kw_only=True)
class Arguments(RunOptions):
    """Process the images of a run that failed, and only these.

    What to do is read from the tables: the images, the checkpoint and the class list of the command that started them.
    Images that succeed leave the table `failures`; of the others it counts the attempts. Exit code 0: nothing is left
    in it; 3: some images failed again; 1: stopped by an error; 2: wrong usage.
    """


def main(argv: Sequence[str] | None = None, *, models: Mapping[str, Any] | None = None) -> int:
    """The exit code of one more attempt.

    Args:
        argv: the command line after the verb; by default the process's own.
        models: verb → how to come by its model; tests put their own here.
    """
    return guarded(lambda: _run(list(sys.argv[1:] if argv is None else argv), models or {}))


def _run(argv: list[str], models: Mapping[str, Any]) -> int:
    arguments = parsed(Arguments, "zs3 retry", argv)
    retry = plan_retry(arguments.out)
    if retry.request is None:
        nothing = RunResult(
            images=0,
            failed=0,
            skipped=retry.done,
            seconds=0.0,
            images_per_second=0.0,
            out=arguments.out,
            startup_seconds=0.0,
        )
        return told(nothing, arguments, [f"nothing to try again: no image failed, {retry.done:,} are done"])
    sys.stderr.write(f"zs3 {retry.verb} of what failed: {retry.failed:,}\n")
    code = DOORS[retry.verb](retry.request, arguments, models.get(retry.verb))
    failed = failed_images(existing_table(table_uri(arguments.out, "failures")))
    if code != DONE or not failed:
        return code
    sys.stderr.write(
        f"failed, and not among the images that the tables were started with: {failed:,}; give the command that "
        "added them once more, with --retry-failures\n"
    )
    return SOME_FAILED


if __name__ == "__main__":
    sys.exit(main())
