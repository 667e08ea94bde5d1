"""Try again what failed: `zs3 retry`, `python jobs/retry.py`, or on a cluster

ray job submit --working-dir . -- python jobs/retry.py --out s3://bucket/run
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from jobs import label, name, segment
from jobs.cli.exit_codes import DONE, SOME_FAILED, guarded
from jobs.cli.options import print_json
from jobs.cli.run_options import RunOptions, parse_run_options
from jobs.cli.terminal import write_messages
from pipelines.labelling.retry import failed_images, prepare_retry
from pipelines.runs.run import RunResult
from pipelines.tables.delta_reader import existing_table, table_uri

CARRY_OUT: Mapping[str, Callable[..., int]] = {
    "label": label.carry_out,
    "segment": segment.carry_out,
    "name": name.carry_out,
}
"""Command → the function that carries out its request."""


@dataclass(frozen=True, kw_only=True)
class RetryOptions(RunOptions):
    """Process the images of a run that failed, and only these.

    The images, the checkpoint and the class list are those of the command that started the tables, which store them.
    Images that succeed leave the table `failures`, which counts the attempts of the others.
    Exit codes: 0 no failure is left, 1 stopped by an error, 2 wrong usage, 3 some images failed again.
    """


def main(argv: Sequence[str] | None = None, *, models: Mapping[str, Any] | None = None) -> int:
    """The exit code of `zs3 retry`; tests replace the models of commands by `models`."""
    return guarded(lambda: _run(parse_run_options(RetryOptions, "zs3 retry", argv), models or {}))


def _run(options: RetryOptions, models: Mapping[str, Any]) -> int:
    retry = prepare_retry(options.out)
    if retry.request is None:
        sys.stderr.write(f"nothing to try again: no image failed, {retry.done:,} are done\n")
        if options.json:
            print_json(asdict(RunResult(out=options.out, skipped=retry.done)))
        return DONE
    write_messages([f"zs3 {retry.command} of what failed: {retry.failed:,}"])
    code = CARRY_OUT[retry.command](retry.request, options, models.get(retry.command))
    failed = failed_images(existing_table(table_uri(options.out, "failures")))
    if code != DONE or not failed:
        return code
    sys.stderr.write(
        f"failed, and not among the images that the tables were started with: {failed:,}; give the command that "
        "added them once more, with --retry-failures\n"
    )
    return SOME_FAILED


if __name__ == "__main__":
    sys.exit(main())
