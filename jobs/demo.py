"""The whole path on eight photographs that installed packages carry: no download, no data set needed.

    zs3 demo                        python jobs/demo.py --out somewhere

The photographs and their hand-drawn truth (`demo_data/demo.json`) become a `folder` data set, are labelled on
a Ray of this machine, and the label table is evaluated. Nothing here is special to the demo but the data: the
same requests go to the same pipelines as those of `zs3 label` and `zs3 evaluate`.
"""

import importlib.util
import json
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from rich.console import Console

from jobs.cli.exit_codes import DONE, SOME_FAILED, guarded
from jobs.cli.options import print_json
from jobs.cli.run_options import query
from pipelines.evaluation.evaluate import evaluate
from pipelines.evaluation.request import EvaluateRequest
from pipelines.labelling.label import label
from pipelines.labelling.label_plan import LabellerFactory, LabelRequest
from pipelines.runs.run import RunResult
from zs3.images.codec import encode_label_png
from zs3.report import SCORE_KEYS
from zs3.report.terminal import summary

# H W pixels

DATA = Path(__file__).parent / "demo_data" / "demo.json"
VOID = 255
SPLIT = "val"
"""The only split of the demo's data set: nothing is trained on these photographs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoOptions:
    """Label eight photographs with the shipped model, evaluate the labels, and show where everything lies."""

    out: str = "zs3-demo"
    """Folder that gets the photographs, the tables and the report."""
    checkpoint: str = "zs3-mini"
    """The model: a shipped name, a folder or a uri."""
    json: bool = False
    """Print the result as one line of JSON, the last of standard output."""


def main(argv: Sequence[str] | None = None, *, model: LabellerFactory | None = None) -> int:
    """The exit code of the demo.

    Args:
        argv: the command line after the verb; by default the process's own.
        model: how to come by the labeller; tests put their own here.
    """
    return guarded(lambda: _run(list(sys.argv[1:] if argv is None else argv), model))


def _run(argv: list[str], model: LabellerFactory | None) -> int:
    options = tyro.cli(DemoOptions, prog="zs3 demo", args=argv, config=(tyro.conf.FlagCreatePairsOff,))
    called = time.monotonic()
    labelled, report = label_and_evaluate(options, model)
    console = Console()
    console.print(summary(report))
    sys.stdout.write(directions(options.out, labelled, time.monotonic() - called))
    if options.json:
        line = asdict(labelled) | {key: report[key] for key in SCORE_KEYS}
        print_json(line)
    return SOME_FAILED if labelled.failed else DONE


def label_and_evaluate(
    options: DemoOptions, model: LabellerFactory | None
) -> tuple[RunResult, dict[str, Any]]:
    """The demo without its words: what labelling did, and what `report.json` holds."""
    root = Path(options.out) / "photographs"
    write_dataset(root)
    request = LabelRequest(
        images=str(root / "images"),
        classes=str(root / "classes.json"),
        checkpoint=options.checkpoint,
        out=options.out,
    )
    sys.stderr.write("starting Ray on this machine and labelling the photographs\n")
    labelled = label(request, model=model)
    sys.stderr.write("evaluating the labels\n")
    scored = EvaluateRequest(
        labels=options.out,
        dataset="folder",
        root=str(root),
        split=SPLIT,
        out=str(Path(options.out, "report")),
    )
    return labelled, evaluate(scored, now=datetime.now(UTC))


def directions(out: str, labelled: RunResult, seconds: float) -> str:
    """Where the results lie, and a command that queries the label table."""
    skipped = f", {labelled.skipped} were labelled before" if labelled.skipped else ""
    statement = (
        "SELECT class_name, seen, count(*) AS images, sum(area) AS pixels FROM t GROUP BY ALL ORDER BY 4 DESC"
    )
    return (
        f"\n{labelled.images} photographs labelled{skipped}, {seconds:.0f} s in all, of which "
        f"{labelled.startup_seconds:.0f} s to start\n"
        f"report with overlays   {out}/report/report.html\n"
        f"label table            {out}/labels\n"
        f"ask it anything        {query(out, 'labels', statement)}\n"
    )


def demo_data() -> dict[str, Any]:
    """What `demo.json` holds: classes, and photographs with their regions as polygons in pixels."""
    content: dict[str, Any] = json.loads(DATA.read_text("utf-8"))
    return content


def write_dataset(root: Path) -> None:
    """The demo's photographs and truth as a `folder` data set at `root`; writes the same bytes every time.

    Raises:
        FileNotFoundError: a package no longer carries its photograph.
        ValueError: a photograph has another size than the one its polygons were drawn on.
    """
    data = demo_data()
    class_ids = {entry["name"]: entry["id"] for entry in data["classes"]} | {"void": VOID}
    (root / "images").mkdir(parents=True, exist_ok=True)
    (root / "masks").mkdir(exist_ok=True)
    for photograph in data["photographs"]:
        source = photograph_path(photograph)
        truth_HW = drawn(photograph["regions"], class_ids, photograph["width"], photograph["height"])
        shutil.copy2(source, root / "images" / f"{photograph['id']}{source.suffix}")
        (root / "masks" / f"{photograph['id']}.png").write_bytes(encode_label_png(truth_HW))
    classes = {"name": "demo", "ignore_index": VOID, "classes": data["classes"]}
    splits = {SPLIT: [photograph["id"] for photograph in data["photographs"]]}
    (root / "classes.json").write_text(json.dumps(classes, indent=1) + "\n")
    (root / "splits.json").write_text(json.dumps(splits, indent=1) + "\n")


def photograph_path(photograph: Mapping[str, Any]) -> Path:
    """Where the photograph lies in the installed package that carries it.

    The package is found, not imported: scikit-learn alone would take a second.
    """
    package, expected = photograph["package"], (photograph["width"], photograph["height"])
    repair = f"install {package} in the version that constraints.txt pins"
    spec = importlib.util.find_spec(package)
    folders = list(spec.submodule_search_locations or []) if spec else []
    path = Path(folders[0] if folders else package, photograph["file"])
    if not path.is_file():
        raise FileNotFoundError(
            f"demo photograph {photograph['id']!r} should lie at {path}, and does not; {repair}"
        )
    with Image.open(path) as image:
        found = image.size
    if found != expected:
        raise ValueError(
            f"demo photograph {photograph['id']!r} is {found[0]}x{found[1]} pixels, and its polygons were "
            f"drawn on {expected[0]}x{expected[1]}; {repair}"
        )
    return path


def drawn(
    regions: Sequence[Mapping[str, Any]], class_ids: Mapping[str, int], width: int, height: int
) -> NDArray[np.uint8]:
    """(H, W) class ids: polygons painted in their order, later ones over earlier ones, void elsewhere."""
    canvas = Image.new("L", (width, height), VOID)
    for region in regions:
        corners = [(x, y) for x, y in region["polygon"]]
        ImageDraw.Draw(canvas).polygon(corners, fill=class_ids[region["class"]])
    return np.array(canvas)


if __name__ == "__main__":
    sys.exit(main())
