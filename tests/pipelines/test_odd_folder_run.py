"""All commands work in a folder whose name has a space, an accent, `#`, `?` and a percent sign."""

import json
import os
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.comparison.label_changes import label_changes
from pipelines.evaluation.evaluate import evaluate
from pipelines.evaluation.request import EvaluateRequest
from pipelines.export.export import ExportRequest, export
from pipelines.labelling.label import label
from pipelines.labelling.name import NameRequest, name
from pipelines.labelling.retry import prepare_retry
from pipelines.labelling.segment import SegmentRequest, segment
from pipelines.runs.status import status
from pipelines.tables.delta_reader import existing_table
from pipelines.tables.label_table import open_labels, open_labels_at
from tests.support.colour_labeller import (
    GREEN,
    SMALL,
    colours,
    expected,
    make_photos,
    picture,
    request_for,
    table,
)
from tests.support.stored_segments import grouping, naming

NAME = "My Projects é #1 ? 100%"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A data set in a folder with that name: pictures, the truth of each, and a class list."""
    root = tmp_path / NAME
    root.mkdir()
    photos = make_photos(root, 5)
    (root / "images").symlink_to(photos)
    (root / "masks").mkdir()
    for path in photos.glob("*.png"):
        red_HW = np.asarray(Image.open(path))[..., 0] > 127
        Image.fromarray(np.where(red_HW, 1, 2).astype(np.uint8)).save(root / "masks" / path.name)
    entries = [{"id": 1, "name": "red", "role": "seen"}, {"id": 2, "name": "blue", "role": "unseen"}]
    (root / "classes.json").write_text(json.dumps({"classes": entries, "ignore_index": 255}))
    return root


def test_every_command_reads_what_the_earlier_ones_wrote(
    ray_session: None, in_process: None, home: Path
) -> None:
    photos = home / "photos"
    request = request_for(photos)
    result = label(request, SMALL, model=colours())
    assert (result.images, result.failed) == (5, 0)
    assert table(request) == expected(photos)
    assert [(each.state, each.done, each.uri) for each in status(request.out)] == [
        ("complete", 5, f"{request.out}/labels")
    ]
    again = label(request, SMALL, model=colours())
    assert (again.images, again.skipped) == (0, 5)

    os.utime(photos / "i3.png", (1, 1))
    picture(photos / "green.png", corner=GREEN)
    changed = label(request, SMALL, model=colours())
    assert (changed.images, changed.failed) == (1, 1), "rows of a changed picture are replaced"
    assert table(request) == expected(photos, only={f"i{index}" for index in range(5)})
    assert prepare_retry(request.out).failed == 1
    (photos / "green.png").unlink()

    kept, named = str(home / "kept"), str(home / "named")
    segmenting = SegmentRequest(images=str(photos), checkpoint="colours", out=kept, store="lossless")
    assert segment(segmenting, SMALL, model=grouping()).images == 5
    naming_request = NameRequest(segments=kept, classes=str(home / "classes.txt"), out=named)
    assert name(naming_request, SMALL, model=naming()).images == 5
    assert [each.done for out in (kept, named) for each in status(out)] == [5, 5]

    labels = open_labels(request.out)
    assert labels.uri is not None and labels.version is not None
    assert open_labels_at(labels.uri, labels.version) is not None, "its files are found"
    tables = [existing_table(f"{out}/labels") for out in (request.out, named)]
    assert tables[0] is not None and tables[1] is not None
    assert label_changes(tables[0], tables[0], SMALL)["changed"] == 0

    request_to_evaluate = EvaluateRequest(
        labels=request.out,
        dataset="folder",
        root=str(home),
        split="all",
        out=str(home / "scores"),
        replicates=10,
    )
    report = evaluate(request_to_evaluate, now=datetime(2026, 1, 1, tzinfo=UTC))
    assert report["images"] == 5
    assert json.loads((home / "scores" / "report.json").read_text())["images"] == 5
    assert status(request.out)[0].done == 5
    exported = export(ExportRequest(labels=request.out, to="png", out=str(home / "pngs")))
    assert exported.images == 5 and len(list((home / "pngs").glob("*.png"))) == 5
    copied = export(ExportRequest(labels=request.out, to="parquet", out=str(home / "plain")))
    assert copied.images == 5
    assert export(ExportRequest(labels=request.out, to="parquet", out=str(home / "plain"))).images == 5
