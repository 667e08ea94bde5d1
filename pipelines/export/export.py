"""The export graph: tasks turn label rows into files of other tools, image by image.

files ─► label_rows_graph ─► exported (CPU tasks that write the files of images) ─► lists and JSON (driver, as a stream)
files ─► copied (CPU tasks, one per file) ─► driver, for plain Parquet

Every file grows in a hidden folder and is then renamed, so readers see whole files, and an export that was stopped and
started again writes the same files. The driver has one block of results in memory, and the names of all images in a
temporary file.
"""

from __future__ import annotations

import functools
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.execution import RaySettings
from pipelines.export.dataset_files import LISTS
from pipelines.export.image_files import FilePlan, copied, exported
from pipelines.ray_session import start_ray
from pipelines.storage.atomic import write_whole
from pipelines.storage.spill import SpillFile
from pipelines.tables.delta_reader import table_uri
from pipelines.tables.label_table import EXPORTED_REGION, Labels, label_rows_graph, open_labels
from zs3.evaluation.matching import class_matches
from zs3.export import cvat
from zs3.export.colours import class_colours
from zs3.export.paths import PARTIAL
from zs3.export.png import VOID_16, needs_16_bits
from zs3.files import filesystem_of
from zs3.metrics import UNKNOWN
from zs3.vocabulary import load_vocabulary
from zs3.wording import first_names, number_of

Format = Literal["png", "coco", "panoptic", "cvat", "parquet"]

MAX_NAMES = 5
"""Names in an error message."""

_NAMES = pa.schema({"image_id": pa.string(), "file": pa.string()})


@dataclass(frozen=True, kw_only=True)
class ExportRequest:
    """The options of `zs3 export` that decide what is written."""

    labels: str
    """Label table, or the --out of a `zs3 label` or `zs3 name` run; local path or uri."""
    to: Format
    """What to write; see docs/handoff.md."""
    out: str
    """Folder or uri that gets the files."""
    classes: str | None = None
    """Class list with the ids for the files: a shipped name such as voc, or a .txt or .json file. Classes are matched
    by name or meaning. By default the list of the labels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportResult:
    """What was written; the keys of `--json`."""

    images: int
    files: int
    classes: dict[str, int]
    """Name -> id in the files, for every class of the list."""
    seconds: float
    to: str
    out: str


def export(
    request: ExportRequest,
    execution: RaySettings | None = None,
    *,
    on_progress: Callable[[int], None] | None = None,
) -> ExportResult:
    """Write a label table as files of another format.

    Args:
        execution: changes no file.
        on_progress: called in this process with the number of images written so far.

    Raises:
        ValueError, FileNotFoundError: the request cannot be carried out, or some images could not be written. The
            message counts and names these; the files of the other images are written.
    """
    started = time.perf_counter()
    labels = open_labels(request.labels)
    classes, ids = _classes(labels, request)
    plan = _file_plan(request, ids, dict(classes))
    label_lines = cvat.label_lines(classes) if request.to == "cvat" else ""
    if plan.partial:
        shutil.rmtree(plan.partial, ignore_errors=True)
    start_ray(execution or RaySettings())
    try:
        if request.to == "parquet":
            images, files = _plain_parquet(labels, plan, on_progress)
        else:
            images, files = _image_files(labels, plan, classes, on_progress)
        if label_lines:
            write_whole(f"{plan.out}/{cvat.LABELS_FILE}", label_lines.encode(), plan.partial)
            files += 1
    finally:
        if plan.partial:
            shutil.rmtree(plan.partial, ignore_errors=True)
    return ExportResult(
        images=images,
        files=files,
        classes=dict(classes),
        seconds=time.perf_counter() - started,
        to=request.to,
        out=request.out,
    )


def _classes(labels: Labels, request: ExportRequest) -> tuple[list[tuple[str, int]], dict[str, int]]:
    """(name, id) of every class of the exported list, and labelled name -> exported id.

    Raises:
        ValueError: the list lacks a labelled class.
    """
    if request.classes is None:
        listed = (
            [(entry.name, entry.id) for entry in labels.vocabulary.candidates] if labels.vocabulary else []
        )
        return listed or sorted(labels.ids.items(), key=lambda item: item[1]), dict(labels.ids)
    vocabulary = load_vocabulary(request.classes)
    ids = class_matches(labels.ids, vocabulary)
    missing = [name for name, class_id in ids.items() if class_id == UNKNOWN]
    if missing:
        raise ValueError(
            f"class list {request.classes!r} has no class for {first_names(missing, MAX_NAMES)}, which "
            f"{request.labels} is labelled with; give the list that was labelled with, or leave --classes out"
        )
    used = set(ids.values()) | {entry.id for entry in vocabulary.candidates}
    return [(entry.name, entry.id) for entry in vocabulary.classes if entry.id in used], ids


def _file_plan(request: ExportRequest, ids: Mapping[str, int], classes: Mapping[str, int]) -> FilePlan:
    """The settings of every task.

    Raises:
        ValueError: the folder or a parent of it is a file, or class ids are too large for the format.
    """
    out = table_uri(request.out, "").rstrip("/")
    local = "://" not in out
    blocking = (
        next((part for part in (Path(out), *Path(out).parents) if part.is_file()), None) if local else None
    )
    if blocking:
        raise ValueError(
            f"cannot export to {out}: {blocking} is a file, expected a folder; choose another --out"
        )
    top = max(classes.values(), default=0)
    if request.to == "png" and top >= VOID_16:
        raise ValueError(
            f"class id {top} does not fit a PNG, which holds 0..{VOID_16 - 1}; number the classes anew with --classes"
        )
    class_colours(np.array(sorted(classes.values()), np.int64))
    return FilePlan(
        to=request.to,
        out=out,
        partial=f"{out}/{PARTIAL}" if local else None,
        ids=dict(ids),
        wide=needs_16_bits(top),
    )


def _image_files(
    labels: Labels,
    plan: FilePlan,
    classes: Sequence[tuple[str, int]],
    on_progress: Callable[[int], None] | None,
) -> tuple[int, int]:
    """Write the files of images, and the list where the format has one; returns the number of images and of files.

    Raises:
        ValueError: images could not be written, or the rows of an image are in two places.
    """
    graph = label_rows_graph(labels.files, EXPORTED_REGION).map_batches(
        functools.partial(exported, plan=plan), batch_size=None, batch_format="pyarrow"
    )
    # So that image numbers in a list are the same in every export.
    graph.context.execution_options.preserve_order = True
    errors: list[str] = []
    failed = images = files = 0
    with (
        tempfile.TemporaryDirectory() as folder,
        SpillFile(Path(folder), _NAMES) as names,
        LISTS[plan.to](labels, plan, classes) as add,
    ):
        for block in graph.iter_batches(batch_size=None, batch_format="pyarrow"):
            assert isinstance(block, pa.Table)
            new_errors = [error for error in block["error"].to_pylist() if error]
            failed, errors = failed + len(new_errors), sorted([*errors, *new_errors])[:MAX_NAMES]
            written = block.filter(pc.equal(block["error"], ""))
            names.write(written.select(_NAMES.names).cast(_NAMES))
            for row in written.to_pylist():
                add(images, row)
                images += 1
                files += bool(row["file"])
            if on_progress:
                on_progress(images)
        if failed:
            raise ValueError(
                f"{failed} of {number_of(images + failed, 'image')} cannot be exported: {'; '.join(errors)}"
            )
        twice = names.repeated("image_id", 1)
        if twice:
            raise ValueError(
                f"the rows of {twice[0]!r} are in two places of {labels.uri}; label again elsewhere"
            )
        same = names.repeated("file", 1)
        if same:
            raise ValueError(f"two images would be called {same[0]}; label again with file names that differ")
    return images, files + (plan.to != "png")


def _plain_parquet(
    labels: Labels, plan: FilePlan, on_progress: Callable[[int], None] | None
) -> tuple[int, int]:
    """Copy the files of the table without its log; returns the number of images and files.

    Raises:
        ValueError: the folder contains other Parquet files, or a file could not be written.
    """
    import ray
    from ray.data import DataContext

    DataContext.get_current().enable_progress_bars = False
    total = len(labels.files)
    names = [f"labels-{number:05d}-of-{total:05d}.parquet" for number in range(1, total + 1)]
    _refuse_other_files(plan.out, names)
    graph = ray.data.from_arrow(
        [pa.table({"file": [file], "name": [name]}) for file, name in zip(labels.files, names, strict=True)]
    ).map_batches(functools.partial(copied, plan=plan), batch_size=None, batch_format="pyarrow")
    images = files = 0
    for row in graph.iter_rows():
        if row["error"]:
            raise ValueError(row["error"])
        images += row["images"]
        files += 1
        if on_progress:
            on_progress(images)
    return images, files


def _refuse_other_files(out: str, names: Sequence[str]) -> None:
    """Raise ValueError if the folder contains Parquet files that would be read together with the exported ones."""
    filesystem, path = filesystem_of(out)
    existing = filesystem.ls(path, detail=False) if filesystem.isdir(path) else []
    files = {str(file).rpartition("/")[2] for file in existing}
    others = sorted({file for file in files if file.endswith(".parquet")} - set(names))
    if others:
        raise ValueError(
            f"{out} contains other Parquet files ({first_names(others, MAX_NAMES)}), which readers would take for "
            "labels too; choose another --out, or remove them"
        )
