"""The `zs3` command: runs the module of the command that its first argument names.

Nothing heavy is imported before the command is known, so that `zs3 --help` answers at once.
"""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Sequence

from jobs.cli.exit_codes import guarded
from jobs.cli.terminal import write_messages

COMMANDS = (
    "demo",
    "label",
    "segment",
    "name",
    "plan",
    "status",
    "retry",
    "repair",
    "tune",
    "evaluate",
    "compare",
    "export",
    "train",
    "convert",
    "compose",
    "models",
)
"""Each is a module of this package with a function `main(argv) -> int`."""

MANUAL = """\
NAME
    zs3 - zero-shot semantic segmentation: from images and class names to label tables and an honest report

SYNOPSIS
    zs3 COMMAND [OPTIONS]         zs3 COMMAND --help lists the options of a command, required ones first

START HERE
    zs3 demo                      needs nothing else: labels eight photographs and evaluates the labels

    zs3 label --images photos/ --classes classes.txt --checkpoint zs3-mini --out run/

    --images        a folder (with subfolders), a glob, a text file with one path or uri a line, a Parquet table
                    with a column `uri`, or one image; on this machine or in an object store (s3://, gs://)
    --classes       a shipped list (voc, ade20k_150, …), a classes.json, or a text file with one class
                    a line: `name`, or `name: synonym, synonym`; a trailing * marks a class as unseen
    --checkpoint    a shipped name (zs3-mini), a folder or a uri
    --out           a folder or uri for the tables

COMMANDS
    demo        labels photographs that come with the installation, and evaluates the labels; downloads nothing
    label       images and a class list -> a table of labelled regions
    segment     images -> a table of segments without class names; runs the networks once for any class list
    name        a table of segments and a class list -> a table of labelled regions, on CPUs, without images
    plan        the options of `label` or `segment` -> time, machine hours and bytes, estimated from a sample
    status      the --out of a run -> images done, failed and left, speed, time left
    retry       the --out of a run -> tries its failed images again, and only these
    repair      the --out of a damaged run -> drops what is lost, so that the next run makes it again
    tune        a table of segments and truth -> naming settings that suit the data, and a trade-off curve
    evaluate    labels or segments and truth -> seen, unseen and harmonic mIoU, and where the errors are
    compare     two evaluations of the same images -> their differences, with intervals and p-values
    export      a table of labelled regions -> label PNGs, COCO stuff or panoptic JSON, CVAT, plain Parquet
    train       a recipe and truth of seen classes -> a checkpoint
    convert     a released checkpoint of ZegFormer, FC-CLIP or MAFT+ -> a checkpoint of zs3
    compose     a published segmenter and a CLIP, by name or folder -> a checkpoint of zs3
    models      every model by name: what it is, licences, published numbers, and the commands to labels

EXAMPLES
    zs3 label --images 's3://bucket/2024/*.jpg' --classes classes.txt --checkpoint zs3-mini --out s3://bucket/run
    zs3 label --images photos/ --classes voc --checkpoint zs3-mini --out run/ --dry-run
    zs3 plan --images photos/ --classes voc --checkpoint zs3-mini --out run/
    zs3 status --out run/
    zs3 retry --out run/
    zs3 repair --out run/ --dry-run
    zs3 segment --images photos/ --checkpoint zs3-mini --out kept/
    zs3 segment --images photos/ --masks proposals.json --checkpoint zs3-mini --out given/
    zs3 name --segments kept/ --classes other_classes.txt --out named/
    zs3 tune --segments kept/ --dataset voc --root VOC2012/ --split train --out tuned/
    zs3 evaluate --labels run/ --dataset voc --root VOC2012/ --split val --out report/
    zs3 compare old_report/ report/
    zs3 export --labels run/ --to png --out masks/
    zs3 train mini --data-root data/ --out runs/
    zs3 convert released.pth --out models/coco_stuff_r101
    zs3 compose --masks facebook/mask2former-swin-large-coco-panoptic \
        --encoder convnext_large_d_320/laion2b_s29b_b131k_ft_soup --out models/strong
    zs3 models fcclip_convnext_large

    The same commands on a Ray cluster:
    ray job submit --working-dir . -- python jobs/label.py --images s3://bucket/photos --classes voc ...

TABLES
    `label` and `name` write Delta Lake tables below --out, which DuckDB, Polars, pandas and Spark can read:
    labels      one row for each image and class: image_id, uri, etag, height, width, class_id, class_name,
                seen, score, area, bbox, rle (COCO run lengths), run
    failures    one row for each image that could not be labelled: image_id, uri, etag, stage, error_type,
                message, attempts, run
    shards      finished parts of the listing
    Start a stopped command again to continue: it processes missing, new and changed images, and no others.

EXIT CODES
    0    everything was done
    1    stopped by an error, with one line on standard error
    2    wrong usage
    3    done, but some images failed; they are in the table `failures`, for `zs3 retry`
    4    compare: the difference is lower than --fail-below
    130, 143    interrupted, or ended by SIGTERM; the same command continues
    141  the reader of the output closed it, as `head` does

ENVIRONMENT
    RAY_ADDRESS         the Ray cluster to join; without it each command starts Ray on this machine
    HF_HUB_OFFLINE      1 keeps compose from the network
    AWS_ENDPOINT_URL    the object store behind s3://, together with the usual keys and region
    ZS3_DEBUG           1 shows the traceback behind an error line

MORE
    README.md, docs/cli.md (every command), docs/runs.md (long runs), docs/clusters.md (Ray clusters)
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    return guarded(lambda: _run(argv))


def _run(argv: Sequence[str] | None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    command = arguments[0] if arguments else "--help"
    if command in ("-h", "--help", "help"):
        sys.stdout.write(MANUAL)
        return 0 if arguments else 2
    if command == "--version":
        from zs3 import __version__

        sys.stdout.write(f"zs3 {__version__}\n")
        return 0
    if command not in COMMANDS:
        near = difflib.get_close_matches(command, COMMANDS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(COMMANDS)}."
        write_messages([f"zs3: error: there is no command {command!r}; {hint} See zs3 --help"])
        return 2
    return int(importlib.import_module(f"jobs.{command}").main(arguments[1:]))


if __name__ == "__main__":
    sys.exit(main())
