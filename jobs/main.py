"""The `zs3` command: finds the verb, and leaves the rest to its door.

Nothing heavy is imported before the verb is known, so that `zs3 --help` answers at once.
"""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Sequence

COMMANDS = (
    "demo",
    "label",
    "segment",
    "name",
    "plan",
    "status",
    "retry",
    "tune",
    "evaluate",
    "compare",
    "export",
    "train",
    "convert",
)
"""Each is a module of this package with `main(argv) -> int`."""

MANUAL = """\
NAME
    zs3 - zero-shot semantic segmentation: images and class names in, label tables and an honest report out

SYNOPSIS
    zs3 VERB [OPTIONS]            zs3 VERB --help shows the options of one verb

VERBS
    demo        label photographs that come with the installation, and evaluate the labels; downloads nothing
    label       images and a class list -> a table of labelled regions
    segment     images -> a table of segments that know no class name; runs the networks once for any class list
    name        a table of segments and a class list -> a table of labelled regions, on CPUs, without a picture
    plan        what `label` or `segment` would be given -> time, hours of machines and bytes, from a measured sample
    status      the --out of a run, while it runs or after -> images done, failed and left, speed, time left
    retry       the --out of a run -> its images that failed are tried again, and only these
    tune        a table of segments and a data set's truth -> the naming settings that suit it, and a trade-off curve
    evaluate    labels or segments and a data set's truth -> seen, unseen and harmonic mIoU, and where the error is
    compare     two evaluations of the same images -> what differs, how surely, and where
    export      a table of labelled regions -> label PNGs, COCO stuff or panoptic JSON, files for CVAT, plain Parquet
    train       a recipe and seen-class truth -> a checkpoint
    convert     a checkpoint of the published ZegFormer -> a checkpoint

EXAMPLES
    zs3 demo
    zs3 label --images photos/ --classes voc --checkpoint zs3-mini --out run/
    zs3 label --images 's3://bucket/2024/*.jpg' --classes classes.txt --checkpoint zs3-mini --out s3://bucket/run
    zs3 label --images photos/ --classes voc --checkpoint zs3-mini --out run/ --dry-run
    zs3 plan --images 's3://bucket/2024/*.jpg' --classes voc --checkpoint zs3-mini --out s3://bucket/run
    zs3 status --out s3://bucket/run
    zs3 retry --out s3://bucket/run
    zs3 segment --images photos/ --checkpoint zs3-mini --out kept/
    zs3 segment --images photos/ --masks proposals.json --checkpoint zs3-mini --out given/
    zs3 name --segments kept/ --classes other_classes.txt --out named/
    zs3 tune --segments kept/ --dataset voc --root VOC2012/ --split train --out tuned/
    zs3 evaluate --labels run/ --dataset voc --root VOC2012/ --split val --out report/
    zs3 export --labels run/ --to png --out masks/
    zs3 train mini --data-root data/ --out runs/
    zs3 convert official.pth --out models/coco_stuff_r101

    The same doors on a Ray cluster:
    ray job submit --working-dir . -- python jobs/label.py --images s3://bucket/photos --classes voc ...

IMAGES
    A folder (with its subfolders), a glob, a text file with one path or uri a line, a Parquet table with a
    column `uri`, or one image; on this machine or in an object store (s3://, gs://).

CLASSES
    A shipped list (voc, coco_stuff, ade20k_full), a text file with one class a line (`name`, or
    `name: synonym, synonym`; a trailing * marks a class as unseen), or a classes.json. Classes that the model can
    hardly tell apart are warned of before a run; those with the same embedding are refused.

TABLES
    `label` writes Delta Lake tables below its --out, open to DuckDB, Polars, pandas and Spark:
    labels      one row per image and class: image_id, uri, etag, height, width, class_id, class_name, seen,
                score, area, bbox, rle (COCO run lengths), run
    failures    one row per image that could not be labelled: image_id, uri, etag, stage, error_type, message,
                attempts, run
    shards      which parts of the listing are done
    A run that was stopped at any instant continues when the same command is given again; nothing is done or written
    twice. New and changed images are processed, others are not.

EXIT CODES
    0    all that was asked was done
    1    stopped by an error, told in one line on standard error
    2    wrong usage
    3    done, but some images failed; they are in the table `failures`, for `zs3 retry`
    4    compare: the difference is lower than --fail-below

ENVIRONMENT
    RAY_ADDRESS         the Ray cluster to join; without it each run has a Ray of its own on this machine
    AWS_ENDPOINT_URL    with the usual keys and region: the object store behind s3://
    ZS3_DEBUG           1 shows the traceback behind an error line
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    verb = arguments[0] if arguments else "--help"
    if verb in ("-h", "--help", "help"):
        sys.stdout.write(MANUAL)
        return 0 if arguments else 2
    if verb == "--version":
        from zs3 import __version__

        sys.stdout.write(f"zs3 {__version__}\n")
        return 0
    if verb not in COMMANDS:
        near = difflib.get_close_matches(verb, COMMANDS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(COMMANDS)}"
        sys.stderr.write(f"zs3: error: there is no verb {verb!r}; {hint} See zs3 --help\n")
        return 2
    return int(importlib.import_module(f"jobs.{verb}").main(arguments[1:]))


if __name__ == "__main__":
    sys.exit(main())
