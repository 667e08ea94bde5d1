"""Label and evaluate eight photographs that come with installed packages; needs no download and no data set.

    zs3 demo                        python jobs/demo.py --out somewhere

The photographs and their hand-drawn truth (`demo_data/demo.json`) are written as a `folder` data set. The demo then
does what `zs3 label` and `zs3 evaluate` do, with the same pipelines.
"""

import importlib.util
import json
import os
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from rich.console import Console

from jobs.cli.exit_codes import DONE, SOME_FAILED, guarded
from jobs.cli.options import parse_command_line, print_json
from jobs.cli.progress import progress_bar
from jobs.cli.run_output import query
from jobs.cli.terminal import clean
from pipelines.evaluation.evaluate import evaluate
from pipelines.evaluation.request import EvaluateRequest
from pipelines.labelling.label import LabellerFactory, LabelRequest, label
from pipelines.runs.run import RunResult
from zs3.images.codec import encode_label_png
from zs3.metrics import GROUPS
from zs3.report.terminal import summary
from zs3.wording import map_texts, number_of

# H W pixels

DATA = Path(__file__).parent / "demo_data" / "demo.json"
UNLABELLED = 255
SPLIT = "val"
"""The only split of the demo's data set: nothing is trained on these photographs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoOptions:
    """Label eight photographs with the shipped model, evaluate the labels, and say where the results are."""

    out: str = "zs3-demo"
    """Folder for the photographs, the tables and the report."""
    checkpoint: str = "zs3-mini"
    """The model: a shipped name, a folder or a uri."""
    json: bool = False
    """Print the result as one line of JSON, the last of standard output."""


def main(argv: Sequence[str] | None = None, *, model: LabellerFactory | None = None) -> int:
    """The exit code of the demo.

    Args:
        argv: the command line after the command's name; by default the process's own.
        model: how to make the labeller; tests pass their own.
    """
    return guarded(lambda: _run(list(sys.argv[1:] if argv is None else argv), model))


def _run(argv: list[str], model: LabellerFactory | None) -> int:
    options = parse_command_line(DemoOptions, "zs3 demo", argv)
    started = time.monotonic()
    labelled, report = label_and_evaluate(options, model)
    Console().print(summary(map_texts(report, clean)))
    sys.stdout.write(next_steps(options.out, labelled, time.monotonic() - started))
    if options.json:
        print_json(asdict(labelled) | {key: report[key] for key in GROUPS})
    return SOME_FAILED if labelled.failed else DONE


def label_and_evaluate(
    options: DemoOptions, model: LabellerFactory | None
) -> tuple[RunResult, dict[str, Any]]:
    """What labelling did, and the content of `report.json`; each step is announced on standard error."""
    root = Path(options.out) / "photographs"
    sys.stderr.write(
        "zs3 demo: label eight photographs and compare the labels with hand-drawn truth. "
        "This downloads nothing and takes about half a minute on 2 free cores.\n"
        f"1/3  Write the photographs and their truth to {root}\n"
    )
    write_dataset(root)
    request = LabelRequest(
        images=str(root / "images"),
        classes=str(root / "classes.json"),
        checkpoint=options.checkpoint,
        out=options.out,
    )
    sys.stderr.write(f"2/3  Start Ray on this machine and label them with {options.checkpoint}\n")
    with progress_bar("labelling") as show:
        labelled = label(request, model=model, on_progress=show)
    sys.stderr.write(f"3/3  Evaluate the labels and write the report to {Path(options.out, 'report')}\n\n")
    evaluation = EvaluateRequest(
        labels=options.out,
        dataset="folder",
        root=str(root),
        split=SPLIT,
        out=str(Path(options.out, "report")),
    )
    return labelled, evaluate(evaluation, now=datetime.now(UTC))


def next_steps(out: str, labelled: RunResult, seconds: float) -> str:
    """The outcome in one line, where the results are, and what to try next."""
    done = f"{number_of(labelled.images, 'photograph')} labelled"
    if labelled.failed:
        done += f", {labelled.failed} failed"
    if labelled.skipped:
        done += f", {labelled.skipped} were labelled by an earlier demo"
    zs3 = "zs3" if shutil.which("zs3") else os.path.relpath(Path(sys.executable).with_name("zs3"))
    statement = (
        "SELECT class_name, seen, count(*) AS images, sum(area) AS pixels FROM t GROUP BY ALL ORDER BY 4 DESC"
    )
    outcome = "Not everything works" if labelled.failed else "zs3 works"
    return (
        f"\n{outcome}: {done}; {seconds:.0f} s, of which {labelled.startup_seconds:.0f} s to start.\n"
        "The model was trained with masks of the seen classes only; it knows the unseen ones by name.\n\n"
        f"Open the report in a browser:  {out}/report/report.html\n"
        f"Query the label table:         {query(out, 'labels', statement)}\n"
        f"Label your own images:         {zs3} label --images FOLDER --classes voc --checkpoint zs3-mini --out run/\n"
        f"Read about the commands:       {zs3} --help, README.md\n"
    )


def demo_data() -> dict[str, Any]:
    """The content of `demo.json`: classes, and photographs with their regions as polygons in pixels."""
    content: dict[str, Any] = json.loads(DATA.read_text("utf-8"))
    return content


def write_dataset(root: Path) -> None:
    """Write the photographs and their truth as a `folder` data set; every call writes the same bytes.

    Raises:
        FileNotFoundError: a package no longer contains its photograph.
        ValueError: a photograph does not have the size that its polygons were drawn on.
    """
    data = demo_data()
    class_ids = {entry["name"]: entry["id"] for entry in data["classes"]} | {"void": UNLABELLED}
    (root / "images").mkdir(parents=True, exist_ok=True)
    (root / "masks").mkdir(exist_ok=True)
    for photograph in data["photographs"]:
        source = photograph_path(photograph)
        truth_HW = polygons_to_map(
            photograph["regions"], class_ids, photograph["width"], photograph["height"]
        )
        shutil.copy2(source, root / "images" / f"{photograph['id']}{source.suffix}")
        (root / "masks" / f"{photograph['id']}.png").write_bytes(encode_label_png(truth_HW))
    classes = {"name": "demo", "ignore_index": UNLABELLED, "classes": data["classes"]}
    splits = {SPLIT: [photograph["id"] for photograph in data["photographs"]]}
    (root / "classes.json").write_text(json.dumps(classes, indent=1) + "\n")
    (root / "splits.json").write_text(json.dumps(splits, indent=1) + "\n")


def photograph_path(photograph: Mapping[str, Any]) -> Path:
    """The path of the photograph in the installed package that contains it.

    The package is located without importing it: scikit-learn alone would take a second.
    """
    package, expected = photograph["package"], (photograph["width"], photograph["height"])
    repair = f"install {package} in the version that constraints.txt pins"
    spec = importlib.util.find_spec(package)
    folders = list(spec.submodule_search_locations or []) if spec else []
    path = Path(folders[0] if folders else package, photograph["file"])
    if not path.is_file():
        raise FileNotFoundError(
            f"demo photograph {photograph['id']!r} is missing; expected it at {path}; {repair}"
        )
    with Image.open(path) as image:
        size = image.size
    if size != expected:
        raise ValueError(
            f"demo photograph {photograph['id']!r} is {size[0]}x{size[1]} pixels, but its polygons were "
            f"drawn on {expected[0]}x{expected[1]}; {repair}"
        )
    return path


def polygons_to_map(
    regions: Sequence[Mapping[str, Any]], class_ids: Mapping[str, int], width: int, height: int
) -> NDArray[np.uint8]:
    """(H, W) class ids: polygons in their order, later ones over earlier ones; unlabelled elsewhere."""
    canvas = Image.new("L", (width, height), UNLABELLED)
    for region in regions:
        corners = [(x, y) for x, y in region["polygon"]]
        ImageDraw.Draw(canvas).polygon(corners, fill=class_ids[region["class"]])
    return np.array(canvas)


if __name__ == "__main__":
    sys.exit(main())
