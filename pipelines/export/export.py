"""The export graph: label rows to files of other tools, image by image, in tasks.

files ─► image_graph ─► exported (CPU tasks, which write the files of images) ─► lists and JSON (driver, as a stream)
files ─► copied (CPU tasks, one a file) ─► driver, for plain Parquet

Every file grows in a hidden folder and then takes its place, so readers see whole files, and an export that was
stopped and is started again leaves the same files under the same names. The driver holds one block of what tasks
tell; what it has to remember of every image waits in a file.
"""

from __future__ import annotations

import functools
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.execution import Execution
from pipelines.export.dataset_files import LISTS
from pipelines.export.image_files import FilePlan, copied, exported
from pipelines.ray_session import start_ray
from pipelines.storage.atomic import without_partial, write_whole
from pipelines.storage.spill import SpillFile
from pipelines.tables.delta_reader import table_uri
from pipelines.tables.label_table import EXPORTED_REGION, Labels, image_graph, open_labels
from zs3.evaluation.matching import class_matches
from zs3.export import cvat
from zs3.export.colours import class_colours
from zs3.export.paths import PARTIAL
from zs3.export.png import VOID_16, needs_16_bits
from zs3.metrics import UNKNOWN
from zs3.vocabulary import load_vocabulary
from zs3.wording import first_names

Format = Literal["png", "coco", "panoptic", "cvat", "parquet"]

NAMED = 5
"""How many offenders a message names."""

_NAMES = pa.schema({"image_id": pa.string(), "file": pa.string()})


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportRequest:
    """Which labels go where, and as what."""

    labels: str
    """A label table, or the --out of a labelling run, which holds it as `labels`."""
    to: Format
    """What files are written; see docs/handoff.md."""
    out: str
    """Folder or uri that gets them."""
    classes: str | None = None
    """Class list whose ids the files carry, classes found by name; by default that which was labelled with."""


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
    execution: Execution | None = None,
    *,
    on_progress: Callable[[int], None] | None = None,
) -> ExportResult:
    """Write the labels of a table as files of another kind.

    Args:
        request: what to write where.
        execution: how; changes no file.
        on_progress: called in this process with the images (Parquet: files) written so far.

    Raises:
        ValueError, FileNotFoundError: the request cannot be carried out, or some images could not be written; these
            are counted and named, and the files of the others are there.
    """
    started = time.perf_counter()
    labels = open_labels(request.labels)
    classes, ids = _classes(labels, request)
    plan = _plan(request, ids, dict(classes))
    lines = cvat.label_lines(classes) if request.to == "cvat" else ""
    if plan.partial:
        without_partial(plan.partial)
    start_ray(execution or Execution())
    try:
        if request.to == "parquet":
            images, files = _plain_parquet(labels, plan, on_progress)
        else:
            images, files = _image_files(labels, plan, classes, on_progress)
        if lines:
            write_whole(f"{plan.out}/{cvat.LABELS_FILE}", lines.encode(), plan.partial)
            files += 1
    finally:
        if plan.partial:
            without_partial(plan.partial)
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
        return listed or sorted(labels.ids.items(), key=lambda held: held[1]), dict(labels.ids)
    vocabulary = load_vocabulary(request.classes)
    ids = class_matches(labels.ids, vocabulary)
    lacking = [name for name, class_id in ids.items() if class_id == UNKNOWN]
    if lacking:
        raise ValueError(
            f"class list {request.classes!r} has no class for {first_names(lacking, NAMED)}, which "
            f"{request.labels} is labelled with; give the list that was labelled with, or leave --classes out"
        )
    used = set(ids.values()) | {entry.id for entry in vocabulary.candidates}
    return [(entry.name, entry.id) for entry in vocabulary.classes if entry.id in used], ids


def _plan(request: ExportRequest, ids: Mapping[str, int], classes: Mapping[str, int]) -> FilePlan:
    """What every task is told.

    Raises:
        ValueError: a file is where the folder should be, or class ids are too large for the format.
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
    """Files of images, and the one list of them where the format has one; how many images and files.

    Raises:
        ValueError: images could not be written, or the rows of one lie in two places.
    """
    graph = image_graph(labels.files, EXPORTED_REGION).map_batches(
        functools.partial(exported, plan=plan), batch_size=None, batch_format="pyarrow"
    )
    # Numbers in a list are then those of the last time.
    graph.context.execution_options.preserve_order = True
    errors: list[str] = []
    failed = images = files = 0
    with (
        tempfile.TemporaryDirectory() as folder,
        SpillFile(Path(folder), _NAMES) as spool,
        LISTS[plan.to](labels, plan, classes) as add,
    ):
        for block in graph.iter_batches(batch_size=None, batch_format="pyarrow"):
            assert isinstance(block, pa.Table)
            wrong = [told for told in block["error"].to_pylist() if told]
            failed, errors = failed + len(wrong), sorted([*errors, *wrong])[:NAMED]
            written = block.filter(pc.equal(block["error"], ""))
            spool.write(written.select(_NAMES.names).cast(_NAMES))
            for row in written.to_pylist():
                add(images, row)
                images += 1
                files += bool(row["file"])
            if on_progress:
                on_progress(images)
        if failed:
            raise ValueError(f"{failed} of {images + failed} images cannot be exported: {'; '.join(errors)}")
        twice = spool.repeated("image_id", 1)
        if twice:
            raise ValueError(
                f"the rows of {twice[0]!r} lie in two places of {labels.uri}; label again elsewhere"
            )
        same = spool.repeated("file", 1)
        if same:
            raise ValueError(f"two images would be called {same[0]}; label again with file names that differ")
    return images, files + (plan.to != "png")


def _plain_parquet(
    labels: Labels, plan: FilePlan, on_progress: Callable[[int], None] | None
) -> tuple[int, int]:
    """The files of the table without its log; how many images and files.

    Raises:
        ValueError: other Parquet files are there, or a file could not be written.
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
            on_progress(files)
    return images, files


def _refuse_other_files(out: str, names: Sequence[str]) -> None:
    """Stop where a folder holds Parquet files that would be read along with the exported ones."""
    import fsspec

    filesystem, path = fsspec.url_to_fs(out)
    held = filesystem.glob(f"{path}/*.parquet") if filesystem.exists(path) else []
    others = sorted({str(file).rsplit("/", 1)[-1] for file in held} - set(names))
    if others:
        raise ValueError(
            f"{out} holds other Parquet files ({first_names(others, NAMED)}), which readers would take for labels too; "
            "choose another --out, or remove them"
        )
