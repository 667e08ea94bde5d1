"""Label tables as input: opened at one version, checked, and read image by image.

The labelling graph writes all rows of an image next to each other in one file. So any task can read a file as a stream
of whole images, without a shuffle.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from pipelines.tables.delta_reader import (
    existing_table,
    file_uris,
    parquet_file,
    provenance_of,
    row_batches,
    table_uri,
)
from zs3.files import filesystem_of
from zs3.vocabulary import Vocabulary, concept
from zs3.wording import number_of

if TYPE_CHECKING:
    import ray.data

IMAGES_PER_TASK = 32
"""Images whose label rows a task has in memory at once."""

ROWS_AT_ONCE = 2048
"""Label rows that a task decodes at once."""

REGION = pa.struct(
    {
        "image_id": pa.string(),
        "height": pa.int32(),
        "width": pa.int32(),
        "class_id": pa.int32(),
        "class_name": pa.string(),
        "score": pa.float32(),
        "area": pa.int64(),
        "rle": pa.large_binary(),
    }
)
"""The columns of a label row that scoring reads."""

EXPORTED_REGION = pa.struct(
    {
        **{field.name: field.type for field in REGION},
        "uri": pa.string(),
        "bbox": pa.list_(pa.int32()),
        "instance_id": pa.int32(),
    }
)
"""The columns that an export reads."""

COLUMNS = [field.name for field in REGION]


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """A label table at one version, with the classes in it; or labels that are made while they are scored."""

    uri: str | None
    """None if labels are made while they are scored."""
    version: int | None
    files: tuple[str, ...]
    rows: int
    runs: tuple[str, ...]
    """Digests of the labelling runs that made the rows; several only if somebody merged tables."""
    seen: Mapping[str, bool]
    """Name of each class that occurs -> whether the labeller was trained on it and its class list does not mark it
    unseen."""
    trained: frozenset[str] | None
    """Concepts (`zs3.vocabulary.concept`) that the labeller had masks of; None where the table does not say."""
    listed: Mapping[str, bool]
    """Concept of each class of the class list that it does not mark unseen -> whether the labeller had masks of it."""
    ids: Mapping[str, int]
    """Name of each class that occurs -> its id in the table."""
    vocabulary: Vocabulary | None
    """The class list of the labels; None for a table that zs3 did not make."""
    provenance: Mapping[str, Any]
    """See `provenance_of`."""

    def had_masks(self, name: str) -> bool | None:
        """Whether the labeller was trained on masks of a class; None where that is not known."""
        return self.listed.get(concept(name)) if self.trained is None else concept(name) in self.trained


def listed_masks(vocabulary: Vocabulary, seen: Mapping[int, bool]) -> dict[str, bool]:
    """`Labels.listed` of a class list.

    Args:
        seen: class id -> whether the labeller had masks of the class and the list does not mark it unseen.
    """
    return {
        concept(entry.name): seen[entry.id]
        for entry in vocabulary.candidates
        if entry.role != "unseen" and entry.id in seen
    }


def open_labels(source: str) -> Labels:
    """Open the label table at `source`, or at its subfolder `labels`.

    Raises:
        FileNotFoundError: there is no table.
        ValueError: it is empty, is another kind of table, or contains a class that is not in its class list.
    """
    uri, table = _find_table(source)
    names = {field.name for field in table.schema().fields}
    missing = [name for name in (*COLUMNS, "seen", "run") if name not in names]
    if missing:
        raise ValueError(
            f"{uri} has no column {missing[0]!r}, so it is not a label table of zs3; check --labels"
        )
    classes, runs, rows = _classes_runs_rows(table)
    if not rows:
        raise ValueError(f"label table {uri} is empty; did the labelling run fail for every image?")
    provenance = provenance_of(table)
    content, trained = provenance.get("vocabulary"), provenance.get("trained")
    vocabulary = Vocabulary.from_json(content) if content else None
    stored_seen = {int(class_id): seen for class_id, seen in provenance.get("seen", {}).items()}
    _refuse_foreign_classes(uri, classes, vocabulary)
    return Labels(
        uri=uri,
        version=table.version(),
        files=tuple(file_uris(table)),
        rows=rows,
        runs=tuple(sorted(runs)),
        seen={name: seen for (_, name), seen in sorted(classes.items())},
        ids={name: class_id for class_id, name in sorted(classes)},
        vocabulary=vocabulary,
        trained=None if trained is None else frozenset(trained),
        listed={} if vocabulary is None else listed_masks(vocabulary, stored_seen),
        provenance={
            key: value for key, value in provenance.items() if key not in ("vocabulary", "seen", "trained")
        },
    )


def open_labels_at(uri: str, version: int) -> DeltaTable | None:
    """The label table at a version; None if it is gone or that version was vacuumed."""
    try:
        table = existing_table(uri)
        if table is None:
            return None
        table.load_as_version(version)
        files = file_uris(table)
    except (ValueError, DeltaError, OSError):
        return None
    filesystem = filesystem_of(files[0])[0] if files else None
    return table if filesystem is None or all(filesystem.exists(file) for file in files) else None


def failed_images(source: str) -> Iterator[pa.Table]:
    """Columns `image_id` and `message` of the images that the run could not process; nothing if it has no failures."""
    table = existing_table(table_uri(source, "failures"))
    if table is not None:
        for batch in row_batches(table, ["image_id", "message"]):
            yield pa.Table.from_batches([batch])


def label_rows_graph(files: Sequence[str], region: pa.StructType = REGION) -> ray.data.Dataset:
    """A lazy dataset with one row per image: `file`, `image_id` and its label `rows`.

    Args:
        files: of a label table.
        region: columns of a label row to read.
    """
    import ray
    from ray.data import DataContext

    DataContext.get_current().enable_progress_bars = False
    return (
        ray.data.from_arrow([pa.table({"file": [file]}) for file in files])
        .map_batches(
            functools.partial(images_in_files, region=region), batch_size=None, batch_format="pyarrow"
        )
        .repartition(target_num_rows_per_block=IMAGES_PER_TASK)
    )


def images_in_files(files: pa.Table, *, region: pa.StructType = REGION) -> Iterator[pa.Table]:
    """One row per image, with its label rows as a list, for a column `file` of Parquet files."""
    schema = pa.schema({"file": pa.string(), "image_id": pa.string(), "rows": pa.list_(region)})
    for file in files["file"].to_pylist():
        grouped = itertools.groupby(_rows(file, region=region), key=lambda row: row["image_id"])
        images = ({"file": file, "image_id": image_id, "rows": list(rows)} for image_id, rows in grouped)
        while block := list(itertools.islice(images, IMAGES_PER_TASK)):
            yield pa.Table.from_pylist(block, schema=schema)


def rows_of_image(file: str, image_id: str) -> list[dict[str, Any]]:
    """The label rows of one image."""
    return list(_rows(file, image_id))


def rows_of_images(file: str, ids: Set[str]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """(image id, its label rows) of some images of a file, which is read once."""
    for image_id, rows in itertools.groupby(_rows(file), key=lambda row: row["image_id"]):
        if image_id in ids:
            yield image_id, list(rows)


def _rows(file: str, image_id: str | None = None, region: pa.StructType = REGION) -> Iterator[dict[str, Any]]:
    """The label rows of a file in order, or those of one image."""
    with parquet_file(file) as opened:
        columns = [field.name for field in region if field.name in opened.schema_arrow.names]
        for batch in opened.iter_batches(ROWS_AT_ONCE, columns=columns):
            if image_id is not None:
                # Arrow cannot filter the string views of files that a Delta delete has rewritten.
                names = batch["image_id"].to_pylist()
                count = names.count(image_id)
                batch = batch.slice(names.index(image_id) if count else 0, count)
            yield from batch.to_pylist()


def _find_table(source: str) -> tuple[str, DeltaTable]:
    folder = table_uri(source, "").rstrip("/")
    for uri in (table_uri(source, "labels"), folder):
        table = existing_table(uri)
        if table is not None:
            return uri, table
    raise FileNotFoundError(
        f"no label table at {folder} or {folder}/labels; give the --out of a `zs3 label` run"
    )


def _classes_runs_rows(table: DeltaTable) -> tuple[dict[tuple[int, str], bool], set[str], int]:
    """(class id, name) -> seen for each class that occurs; run digests; number of rows. Reads the table in a stream."""
    classes: dict[tuple[int, str], bool] = {}
    runs: set[str] = set()
    rows = 0
    keys = ["class_id", "class_name", "seen", "run"]
    for batch in row_batches(table, [*keys, "area"]):
        rows += batch.num_rows
        for group in pa.Table.from_batches([batch]).group_by(keys).aggregate([("area", "sum")]).to_pylist():
            runs.add(group["run"])
            if group["area_sum"]:
                name = (group["class_id"], group["class_name"])
                classes[name] = classes.get(name, False) or group["seen"]
    return classes, runs, rows


def _refuse_foreign_classes(
    uri: str, classes: Mapping[tuple[int, str], bool], vocabulary: Vocabulary | None
) -> None:
    """Raise ValueError if a class has no name or another class's name, or is not in the table's class list."""
    listed = {(entry.id, entry.name) for entry in vocabulary.classes} if vocabulary else set(classes)
    names: dict[int, str] = {}
    for class_id, name in classes:
        if not name.strip():
            raise ValueError(
                f"label table {uri} holds pixels of class id {class_id} without a name; label again"
            )
        if (class_id, name) not in listed:
            assert vocabulary is not None
            raise ValueError(
                f"label table {uri} holds class id {class_id} ({name!r}), which is not in its class list "
                f"{vocabulary.name!r} of {number_of(len(vocabulary.classes), 'class', 'classes')}; was it "
                "merged with another table?"
            )
        if names.setdefault(class_id, name) != name:
            raise ValueError(
                f"label table {uri} calls class id {class_id} both {names[class_id]!r} and {name!r}; "
                "evaluate the tables of different class lists apart"
            )
